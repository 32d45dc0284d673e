"""The one place that builds a ``lightning.Trainer``.

Every fit in the project goes through :func:`fit`: it counts optimiser steps, not epochs, draws
each batch from (seed, step) alone, and checkpoints atomically. A killed fit therefore resumes to
the same weights as one that was never disturbed. What is shared out over devices without learning
goes through :func:`predict`.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm

from rsdistill.errors import ArtifactError, DeviceError, OptionError, storage_errors
from rsdistill.options import TrainerOptions

__all__ = ["StepBatches", "TrainerOptions", "derived_seed", "fit", "predict", "resolve_device", "step_generator"]

CHECKPOINT = "last.ckpt"


def derived_seed(*parts: int) -> int:
    """One 63-bit seed from several whole numbers, so that (seed, step) pairs never collide by addition."""
    entropy = [int(part) for part in parts]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(*parts: int) -> torch.Generator:
    """CPU random generator that depends on these numbers alone, for noise and augmentation of one step."""
    return torch.Generator().manual_seed(derived_seed(*parts))


class StepBatches(IterableDataset[Any]):
    """Endless batches whose content depends on seed and step alone.

    Positions are drawn without replacement within each pass over the data. Under several
    processes each takes its share of the same global batch.

    Args:
        fetch: Makes a batch from positions, int64 (n,).
        length: Number of items there are.
        batch_size: Items of the global batch; cut to ``length``.
        seed: Seed of the order.
    """

    def __init__(self, fetch: Callable[[torch.Tensor], Any], length: int, batch_size: int, seed: int) -> None:
        super().__init__()
        if length < 1 or batch_size < 1:
            raise OptionError(f"batches need items and a size of 1 or more (items {length}, batch size {batch_size})")
        self._fetch, self._length, self._seed = fetch, length, seed
        self.batch_size = min(batch_size, length)
        self.start = 0
        self.rank, self.world = 0, 1

    def positions(self, step: int) -> torch.Tensor:
        """Positions of the global batch of a step, int64 (batch,)."""
        first = step * self.batch_size
        return torch.tensor([self._position(i) for i in range(first, first + self.batch_size)])

    def __iter__(self) -> Iterator[Any]:
        """Yield batches from :attr:`start` on, for ever."""
        step = self.start
        while True:
            yield self._fetch(self.positions(step)[self.rank :: self.world])
            step += 1

    def _position(self, running: int) -> int:
        lap, place = divmod(running, self._length)
        if getattr(self, "_lap", None) != lap:
            self._lap, self._order = lap, torch.randperm(self._length, generator=step_generator(self._seed, lap))
        return int(self._order[place])


def fit(
    module: lightning.LightningModule,
    batches: StepBatches,
    steps: int,
    folder: str | Path | None = None,
    options: TrainerOptions | None = None,
    label: str = "training",
) -> None:
    """Train a module for a number of optimiser steps, resuming where an earlier call was stopped.

    Args:
        module: What to train; random draws in ``training_step`` should come from
            ``step_generator(seed, self.global_step)``.
        batches: Where the batches come from.
        steps: Optimiser steps in all.
        folder: Where checkpoints and the log go; None keeps neither.
        options: Devices, precision and the like.
        label: Name on the progress bar.

    Raises:
        DeviceError: If the device, precision or strategy is not available.
        ArtifactError: If the checkpoint in the folder cannot be read, or is of another model.
        StorageError: If the folder cannot be written.
    """
    options = options or TrainerOptions()
    checkpoint = None if folder is None else Path(folder) / CHECKPOINT
    resumed = checkpoint is not None and checkpoint.exists()
    batches.start = _checkpoint_step(checkpoint, module) if resumed and checkpoint else 0
    callbacks: list[lightning.Callback] = [_Share(batches)]
    if options.progress:
        callbacks.append(_Progress(label, steps))
    logger = None
    if checkpoint is not None:
        with storage_errors(checkpoint):
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
        callbacks.append(_AtomicCheckpoint(checkpoint, options.checkpoint_seconds))
        logger = CSVLogger(checkpoint.parent, name="log", version=f"from_step_{batches.start}")
    trainer = _build_trainer(options, steps, callbacks, logger)
    loader = DataLoader(batches, batch_size=None)
    with warnings.catch_warnings(), _interruptible():
        _quiet()
        trainer.fit(module, loader, ckpt_path=str(checkpoint) if resumed else None, weights_only=True)


def predict(
    module: lightning.LightningModule,
    batches: Sequence[Any],
    options: TrainerOptions | None = None,
    label: str = "predicting",
) -> None:
    """Give batches to a module's ``predict_step``, shared out to the processes by their numbers.

    Each process sees only its share, so the module writes what it finds to where all can read it.
    All shares are finished when this returns.

    Args:
        module: What is given the batches; it returns nothing.
        batches: The same in every process. A batch is never divided, so that what a module makes of
            it does not depend on the number of processes.
        options: Devices, precision and the like.
        label: Name on the progress bar.

    Raises:
        DeviceError: If the device, precision or strategy is not available.
    """
    options = options or TrainerOptions()
    source = _SharedBatches(batches)
    callbacks: list[lightning.Callback] = [_Share(source), _Together()]
    if options.progress:
        callbacks.append(_PredictProgress(label, source))
    trainer = _build_trainer(options, 1, callbacks, None)
    with warnings.catch_warnings(), _interruptible():
        _quiet()
        trainer.predict(module, DataLoader(source, batch_size=None), return_predictions=False)


def resolve_device(options: TrainerOptions | None = None) -> torch.device:
    """The torch device that inference outside a fit runs on, by the same choice as training.

    Raises:
        DeviceError: If the accelerator is unknown or not available.
    """
    choice = (options or TrainerOptions()).accelerator
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if choice == "cpu" or (choice == "auto" and found is None):
        return torch.device("cpu")
    names = {"gpu": ("cuda", "xpu"), "auto": (found.type if found else "",)}.get(choice, (choice,))
    if found is None or found.type not in names:
        raise DeviceError(
            f"trainer.accelerator '{choice}' is not available on this machine "
            f"(available: cpu{', ' + found.type if found else ''}); choose 'auto' or 'cpu'"
        )
    return found


def _build_trainer(
    options: TrainerOptions, steps: int, callbacks: list[lightning.Callback], logger: CSVLogger | None
) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            _quiet()
            return lightning.Trainer(
                accelerator=options.accelerator,
                devices=options.devices,
                num_nodes=options.num_nodes,
                strategy=options.strategy,
                precision=options.precision,  # type: ignore[arg-type]
                max_steps=steps,
                callbacks=callbacks,
                logger=logger or False,
                log_every_n_steps=max(1, min(20, steps // 10)),
                # Some gradients add up in an order that threads decide, unless told otherwise.
                deterministic="warn",
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        first_line = str(error).splitlines()[0]
        raise DeviceError(
            f"trainer options accelerator={options.accelerator}, devices={options.devices}, strategy="
            f"{options.strategy}, precision={options.precision} do not work here: {first_line}"
        ) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let the user's Ctrl-C through: Lightning would end the process, and ignore every later one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stopped:
        if not isinstance(stopped.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def _quiet() -> None:
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Batches come from memory, so workers would only cost; and steps, not epochs, are counted.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`IterableDataset` has `__len__` defined.*")
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*resuming from a checkpoint that ended before.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    warnings.filterwarnings("ignore", message=".*predict returned None.*")


def _checkpoint_step(checkpoint: Path, module: lightning.LightningModule) -> int:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        step, shapes = int(state["global_step"]), {name: value.shape for name, value in state["state_dict"].items()}
    except Exception as error:
        raise ArtifactError(f"{checkpoint} cannot be read ({error}); delete it to train from the start") from error
    if shapes != {name: value.shape for name, value in module.state_dict().items()}:
        raise ArtifactError(f"{checkpoint} is of another model; delete it, or choose another folder")
    return step


class _SharedBatches(IterableDataset[Any]):
    """The batches of one process: every ``world``-th, from its own number on."""

    def __init__(self, batches: Sequence[Any]) -> None:
        super().__init__()
        self._batches = batches
        self.rank, self.world = 0, 1

    def __iter__(self) -> Iterator[Any]:
        return iter(self.share())

    def share(self) -> Sequence[Any]:
        return self._batches[self.rank :: self.world]


class _Together(lightning.Callback):
    """Lets no process go on before all have finished their share."""

    def on_predict_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        trainer.strategy.barrier("predict")


class _Share(lightning.Callback):
    """Tells the batches which share of them this process takes."""

    def __init__(self, batches: StepBatches | _SharedBatches) -> None:
        self._batches = batches

    def setup(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        self._batches.rank, self._batches.world = trainer.global_rank, trainer.world_size


class _AtomicCheckpoint(lightning.Callback):
    """Saves at intervals so that a kill at any moment leaves the last or the new checkpoint whole."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds, self._last = path, seconds, time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        due = time.monotonic() - self._last >= self._seconds
        if trainer.strategy.broadcast(due) and trainer.global_step < trainer.max_steps:
            self._save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        partial = self._path.with_name("partial.ckpt")
        try:
            with storage_errors(self._path):
                trainer.save_checkpoint(partial)
                if trainer.is_global_zero:
                    os.replace(partial, self._path)
        finally:
            if trainer.is_global_zero:
                partial.unlink(missing_ok=True)
        self._last = time.monotonic()


class _Progress(lightning.Callback):
    """A bar over optimiser steps that shows what the module logged with ``prog_bar=True``."""

    def __init__(self, label: str, steps: int) -> None:
        self._label, self._steps = label, steps
        self._bar: tqdm[Any] | None = None

    @rank_zero_only
    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._bar = tqdm(total=self._steps, initial=trainer.global_step, desc=self._label, unit="step", leave=False)

    @rank_zero_only
    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)
            if self._bar.n % 10 == 0:
                self._bar.set_postfix({k: f"{float(v):.3f}" for k, v in trainer.progress_bar_metrics.items()})

    @rank_zero_only
    def on_train_end(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()


class _PredictProgress(lightning.Callback):
    """A bar over the first process's share of batches."""

    def __init__(self, label: str, batches: _SharedBatches) -> None:
        self._label, self._batches = label, batches
        self._bar: tqdm[Any] | None = None

    @rank_zero_only
    def on_predict_start(self, *_: Any) -> None:
        self._bar = tqdm(total=len(self._batches.share()), desc=self._label, unit="batch", leave=False)

    @rank_zero_only
    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.update()

    @rank_zero_only
    def on_predict_end(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
