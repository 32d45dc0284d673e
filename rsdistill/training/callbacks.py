"""The log of a fit, read back as one, however often the fit was stopped."""

from __future__ import annotations

import csv
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import lightning
from tqdm.auto import tqdm

from rsdistill.errors import ArtifactError
from rsdistill.utils.io import complete_file

# Where a checkpoint says how many parts of a batch make a step.
ACCUMULATED = "rsdistill_parts"


class ShardedBatches(Protocol):
    """Batches of which each process takes its share."""

    rank: int
    world: int


class BatchSharding(lightning.Callback):
    """Tells the batches which share of them this process takes."""

    def __init__(self, batches: ShardedBatches) -> None:
        self._batches = batches

    def setup(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        """See Lightning."""
        self._batches.rank, self._batches.world = trainer.global_rank, trainer.world_size


class PredictBarrier(lightning.Callback):
    """Lets no process go on before all have finished their share."""

    def on_predict_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """See Lightning."""
        trainer.strategy.barrier("predict")


class StepCallback(lightning.Callback, ABC):
    """Acts after optimiser steps, each of which may have taken several batches."""

    _step = 0

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """See Lightning."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """See Lightning."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.after_step(trainer)

    @abstractmethod
    def after_step(self, trainer: lightning.Trainer) -> None:
        """Act; ``trainer.global_step`` steps are done."""


class StepMonitor(StepCallback):
    """Measures a model after every so many steps and after the last, and logs the figures.

    Every process monitors, so that none waits for another; the first one logs.

    Args:
        every: Steps between two monitors.
        measure: Given the number of steps done, returns figures; it must leave the training as it is.
    """

    def __init__(self, every: int, measure: Callable[[int], Mapping[str, float]]) -> None:
        self._every, self._measure = every, measure

    def after_step(self, trainer: lightning.Trainer) -> None:
        """Measure, if it is time."""
        step = trainer.global_step
        if step % self._every == 0 or step == trainer.max_steps:
            _log(trainer, self._measure(step))


class StepLog(StepCallback):
    """Logs what the module logged in every so many steps.

    Lightning does so too, but after checkpoints: a kill would then lose a row.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def after_step(self, trainer: lightning.Trainer) -> None:
        """Log, if it is time."""
        if trainer.global_step % self._every == 0:
            _log(trainer, {name: float(value) for name, value in trainer.callback_metrics.items()})


class AtomicCheckpoint(StepCallback):
    """Saves at intervals so that a kill at any moment leaves the last or the new checkpoint whole.

    It comes after all other callbacks, so that what they logged is on disk before it saves.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds, self._last = path, seconds, time.monotonic()

    def after_step(self, trainer: lightning.Trainer) -> None:
        """Save, if it is time."""
        due = time.monotonic() - self._last >= self._seconds
        if trainer.strategy.broadcast(due) and trainer.global_step < trainer.max_steps:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: lightning.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Note in how many parts batches are taken."""
        checkpoint[ACCUMULATED] = trainer.accumulate_grad_batches

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Save the end."""
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        # All processes take part, the first one writes.
        with complete_file(self._path) if trainer.is_global_zero else nullcontext(self._path) as path:
            if trainer.logger is not None:
                trainer.logger.save()
            trainer.save_checkpoint(path)
        self._last = time.monotonic()


class Progress(lightning.Callback):
    """A bar of the first process, over optimiser steps or over its share of the batches to predict.

    Over steps it shows what the module logged with ``prog_bar=True``.

    Args:
        label: Name on the bar.
        total: Steps, or batches of all processes.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """See Lightning."""
        self._open(trainer, self._total, "step")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """See Lightning."""
        self._bar.update(trainer.global_step - self._bar.n)
        if self._bar.n % 10 == 0 and not self._bar.disable:
            self._bar.set_postfix({k: f"{float(v):.3f}" for k, v in trainer.progress_bar_metrics.items()})

    def on_train_end(self, *_: Any) -> None:
        """See Lightning."""
        self._bar.close()

    def on_predict_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """See Lightning."""
        self._open(trainer, len(range(0, self._total, trainer.world_size)), "batch")

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        """See Lightning."""
        self._bar.update()

    def on_predict_end(self, *_: Any) -> None:
        """See Lightning."""
        self._bar.close()

    def _open(self, trainer: lightning.Trainer, total: int, unit: str) -> None:
        done, silent = trainer.global_step, not trainer.is_global_zero
        self._bar = tqdm(total=total, initial=done, desc=self._label, unit=unit, leave=False, disable=silent)


def _log(trainer: lightning.Trainer, figures: Mapping[str, float]) -> None:
    """Log figures with the number of the step just done, from 0."""
    if trainer.logger is not None and figures:
        trainer.logger.log_metrics(dict(figures), trainer.global_step - 1)


LOG = "log"
_PART = "from_step_"
# Steps done, and the value after each.
Curve = tuple[list[int], list[float]]


def log_version(step: int) -> str:
    """Folder, within the log, of what is logged from a step on."""
    return f"{_PART}{step}"


def training_log(folder: str | Path) -> dict[str, Curve]:
    """Curves that a fit logged: names to numbers of optimiser steps done and the values there.

    A fit that was killed logs from its last checkpoint on anew. What it had logged beyond that is left out,
    so that the log is that of a fit that was never stopped.

    Args:
        folder: Folder of the log, which :func:`rsdistill.training.trainer.fit` wrote; without one there are no curves.

    Raises:
        ArtifactError: If a file of the log cannot be read.
    """
    parts = sorted((int(path.parent.name.removeprefix(_PART)), path) for path in Path(folder).glob(f"{_PART}*/*.csv"))
    ends = [start for start, _ in parts[1:]]
    curves: dict[str, Curve] = {}
    for number, (_, path) in enumerate(parts):
        for step, name, value in _rows(path):
            if number < len(ends) and step > ends[number]:
                continue
            steps, values = curves.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    return curves


def _rows(path: Path) -> list[tuple[int, str, float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                (int(row["step"]) + 1, name, float(value))
                for row in csv.DictReader(file)
                for name, value in row.items()
                if name != "step" and value
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as a training log ({error}); delete it") from error
