"""The one place that builds a ``lightning.Trainer``.

Every fit in the project goes through :func:`fit`: it counts optimiser steps, not epochs, draws
each batch from (seed, step) alone, and checkpoints atomically. A killed fit therefore resumes to
the same weights as one that was never disturbed. What is shared out over devices without learning
goes through :func:`predict`.
"""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from rsdistill.errors import ArtifactError, DeviceError, OptionError, storage_errors
from rsdistill.training.callbacks import (
    ACCUMULATED,
    LOG,
    AtomicCheckpoint,
    BatchSharding,
    PredictBarrier,
    Progress,
    StepLog,
    StepMonitor,
    log_version,
)
from rsdistill.utils.options import TrainerOptions

__all__ = ["StepBatches", "TrainerOptions", "derived_seed", "fit", "predict", "resolve_device", "step_generator"]

CHECKPOINT = "last.ckpt"
_LOG_EVERY = 20


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

    Attributes:
        start: Step that iteration begins with.
        repeats: How often each batch comes, for modules that take it in parts.
    """

    def __init__(self, fetch: Callable[[torch.Tensor], Any], length: int, batch_size: int, seed: int) -> None:
        super().__init__()
        if length < 1 or batch_size < 1:
            raise OptionError(f"batches need items and a size of 1 or more (items {length}, batch size {batch_size})")
        self._fetch, self._length, self._seed = fetch, length, seed
        self.batch_size = min(batch_size, length)
        self.start, self.repeats = 0, 1
        self.rank, self.world = 0, 1

    def positions(self, step: int) -> torch.Tensor:
        """Positions of the global batch of a step, int64 (batch,)."""
        first = step * self.batch_size
        return torch.tensor([self._position(i) for i in range(first, first + self.batch_size)])

    def __iter__(self) -> Iterator[Any]:
        """Yield batches from :attr:`start` on, for ever."""
        step = self.start
        while True:
            batch = self._fetch(self.positions(step)[self.rank :: self.world])
            yield from repeat(batch, self.repeats)
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
    accumulate: int = 1,
    monitors: Sequence[StepMonitor] = (),
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
        accumulate: How often the module is given each batch before it steps: the module takes another part of it
            each time, and Lightning divides each loss by this number.
        monitors: What is measured while the module trains, and logged.

    Raises:
        DeviceError: If the device, precision or strategy is not available.
        ArtifactError: If the checkpoint in the folder cannot be read, or is of another model.
        StorageError: If the folder cannot be written.
    """
    options = options or TrainerOptions()
    checkpoint = None if folder is None else Path(folder) / CHECKPOINT
    resumed = checkpoint is not None and checkpoint.exists()
    batches.start = _checkpoint_step(checkpoint, module, accumulate) if resumed and checkpoint else 0
    batches.repeats = accumulate
    callbacks: list[lightning.Callback] = [BatchSharding(batches), *monitors]
    if options.progress:
        callbacks.append(Progress(label, steps))
    logger = None
    if checkpoint is not None:
        with storage_errors(checkpoint):
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
        callbacks.append(StepLog(max(1, min(_LOG_EVERY, steps // 10))))
        callbacks.append(AtomicCheckpoint(checkpoint, options.checkpoint_seconds))
        logger = CSVLogger(checkpoint.parent, name=LOG, version=log_version(batches.start))
    trainer = _build_trainer(options, steps, callbacks, logger, accumulate)
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
    source = _ShardedBatches(batches)
    callbacks: list[lightning.Callback] = [BatchSharding(source), PredictBarrier()]
    if options.progress:
        callbacks.append(Progress(label, len(batches)))
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
    names = {"gpu": ("cuda", "mps", "xpu"), "auto": (found.type if found else "",)}.get(choice, (choice,))
    if found is None or found.type not in names:
        raise DeviceError(
            f"trainer.accelerator '{choice}' is not available on this machine "
            f"(available: cpu{', ' + found.type if found else ''}); choose 'auto' or 'cpu'"
        )
    return found


def _build_trainer(
    options: TrainerOptions,
    steps: int,
    callbacks: list[lightning.Callback],
    logger: CSVLogger | None,
    accumulate: int = 1,
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
                accumulate_grad_batches=accumulate,
                # StepLog does it.
                log_every_n_steps=0,
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


def _checkpoint_step(checkpoint: Path, module: lightning.LightningModule, accumulate: int) -> int:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        step, shapes = int(state["global_step"]), {name: value.shape for name, value in state["state_dict"].items()}
    except Exception as error:
        raise ArtifactError(f"{checkpoint} cannot be read ({error}); delete it to train from the start") from error
    if shapes != {name: value.shape for name, value in module.state_dict().items()}:
        raise ArtifactError(f"{checkpoint} is of another model; delete it, or choose another folder")
    # Lightning goes on counting batches, of which the parts of a step are so many.
    if state.get(ACCUMULATED, 1) != accumulate:
        raise ArtifactError(f"{checkpoint} took batches in {state.get(ACCUMULATED, 1)} part(s); go on so, or delete it")
    return step


class _ShardedBatches(IterableDataset[Any]):
    """The batches of one process: every ``world``-th, from its own number on."""

    def __init__(self, batches: Sequence[Any]) -> None:
        super().__init__()
        self._batches = batches
        self.rank, self.world = 0, 1

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches[self.rank :: self.world])
