"""The stages of a run: their folders, what is cached, and how a killed run continues."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rsdistill.datasets import SceneData
from rsdistill.errors import ArtifactError, StorageError, UnknownNameError, storage_errors
from rsdistill.pipeline.config import RunConfig
from rsdistill.utils.io import complete_file, write_json
from rsdistill.utils.options import plain
from rsdistill.utils.provenance import code_version, digest, library_versions

RECORD = "stage.json"
_WORK = ".work"
_CHECKPOINT = "checkpoint"
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
_POLL_SECONDS = 0.2

Figures = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """Estimated bytes that a stage leaves on disk and holds in memory at its peak."""

    disk: float = 0.0
    memory: float = 0.0


class Stage(ABC):
    """One step of a run: what it depends on, what it makes, and how large that is.

    Attributes:
        name: Its name, also that of its folder.
        summary: One line for listings.
        inputs: The stages it reads.
        plugins: Classes and functions whose code its result depends on, beside the package's own.
        collective: Whether all processes of a distributed run take part; else the first alone works.
        locate: Says where its folder is; the pipeline sets it.
    """

    name: str
    summary: str = ""
    inputs: tuple[Stage, ...] = ()
    plugins: tuple[object, ...] = ()
    collective: bool = False
    locate: Callable[[], Path]

    @property
    def folder(self) -> Path:
        """Its folder in the run."""
        return self.locate()

    @property
    @abstractmethod
    def options(self) -> Any:
        """All options that its result depends on, plain types."""

    @abstractmethod
    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Fill a folder, given a second one whose content survives a kill; returns figures worth showing."""

    def outputs(self) -> dict[str, Path]:
        """What a person looks for in its folder, by name."""
        return {}

    def estimate(self, data: SceneData) -> Estimate:
        """How large its result and its memory will be, for the plan of a run."""
        return Estimate()


@dataclass(frozen=True)
class StageState:
    """Where a stage stands.

    Attributes:
        name: Name of the stage.
        folder: Its folder.
        key: Hash of its options, of its inputs' keys and of the code version.
        cached: Whether the folder holds the result of just this key.
        seconds: Time it took, 0 if not complete.
        figures: What it measured.
    """

    name: str
    folder: Path
    key: str
    cached: bool
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)


class Pipeline:
    """Runs stages in order in one folder, skips what is complete, and redoes what changed.

    A stage works in a folder of its own under ``.work`` that is renamed when complete.

    Args:
        folder: Folder of the run.
        stages: The stages, each after its inputs.
    """

    def __init__(self, folder: str | Path, stages: Sequence[Stage]) -> None:
        self.folder, self.stages = Path(folder), tuple(stages)
        for number, stage in enumerate(self.stages, 1):
            stage.locate = partial(self._found, number, stage.name)

    def states(self) -> list[StageState]:
        """Where each stage stands, in order."""
        states: dict[str, StageState] = {}
        for number, stage in enumerate(self.stages, 1):
            inputs = [states[source.name] for source in stage.inputs]
            code = code_version(*stage.plugins)
            key = digest([stage.name, stage.options, code, [state.key for state in inputs]])
            folder = self._found(number, stage.name)
            record = _read_record(folder)
            fresh = record.get("key") == key and all(state.cached for state in inputs)
            states[stage.name] = StageState(
                stage.name, folder, key, fresh, record.get("seconds", 0.0), record.get("figures", {})
            )
        return list(states.values())

    def run(self, until: str | None = None, report: Callable[[StageState], None] | None = None) -> list[StageState]:
        """Carry out what is not complete.

        Args:
            until: Last stage to carry out; None for all.
            report: Called with the state of each stage as it is reached.

        Returns:
            The states afterwards.

        Raises:
            UnknownNameError: If there is no stage ``until``.
            StorageError: If the folder cannot be written.
        """
        names = [stage.name for stage in self.stages]
        if until is not None and until not in names:
            raise UnknownNameError("stage of this run", until, names)
        if not process_rank():
            self._renumber()
        for number, stage in enumerate(self.stages):
            state = self.states()[number]
            if report is not None:
                report(state)
            if not state.cached:
                if process_rank():
                    self._follow(stage, number)
                else:
                    self._carry_out(stage, state)
            if stage.name == until:
                break
        return self.states()

    def _place(self, number: int, name: str) -> Path:
        return self.folder / f"{number:02d}_{name}"

    def _found(self, number: int, name: str) -> Path:
        """Folder of a stage: at its place, or where it lay while the run had other stages before it."""
        place = self._place(number, name)
        elsewhere = sorted(self.folder.glob(f"[0-9][0-9]_{name}"))
        return place if place.exists() or not elsewhere else elsewhere[-1]

    def _renumber(self) -> None:
        """Bring folders to their places, from where they lay while the run had other stages."""
        with storage_errors(self.folder):
            for number, state in enumerate(self.states(), 1):
                place = self._place(number, state.name)
                if state.folder != place:
                    os.replace(state.folder, place)

    def _carry_out(self, stage: Stage, state: StageState) -> None:
        started = time.monotonic()
        work = self._work(stage.name, state.key)
        result, checkpoint = work / "result", work / _CHECKPOINT
        with storage_errors(self.folder):
            shutil.rmtree(result, ignore_errors=True)
            result.mkdir(parents=True)
            checkpoint.mkdir(exist_ok=True)
            spent = _spent(work)
            try:
                figures = stage.make(result, checkpoint)
            except BaseException:
                self._leave(work, spent + time.monotonic() - started)
                raise
            seconds = spent + time.monotonic() - started
            write_json(result / RECORD, {"key": state.key, "seconds": round(seconds, 2), "figures": figures})
            for old in self.folder.glob(f"[0-9][0-9]_{stage.name}"):
                shutil.rmtree(old)
            os.replace(result, state.folder)
            self._remove_work(stage.name)

    def _follow(self, stage: Stage, number: int) -> None:
        """In a process beside the first: take part in training, then wait for the first one's result."""
        if stage.collective:
            with tempfile.TemporaryDirectory() as unused:
                stage.make(Path(unused), self._work(stage.name, self.states()[number].key) / _CHECKPOINT)
        parent = os.getppid()
        while not self.states()[number].cached:
            if os.getppid() != parent:
                raise StorageError(f"the first process of the run stopped during stage '{stage.name}'; run it again")
            time.sleep(_POLL_SECONDS)

    def _work(self, name: str, key: str) -> Path:
        return self.folder / _WORK / f"{name}-{key[:16]}"

    def _leave(self, work: Path, seconds: float) -> None:
        """Keep of a failed stage what its next attempt can use, and no folder without content."""
        shutil.rmtree(work / "result")
        if any((work / _CHECKPOINT).iterdir()):
            write_json(work / "spent.json", seconds)
            return
        shutil.rmtree(work)
        for folder in (work.parent, self.folder):
            if any(folder.iterdir()):
                break
            folder.rmdir()

    def _remove_work(self, name: str) -> None:
        """Remove the working folders of a stage, those of earlier options included."""
        for left in (self.folder / _WORK).glob(f"{name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        if not any((self.folder / _WORK).iterdir()):
            (self.folder / _WORK).rmdir()


def process_rank() -> int:
    """Number of this process among those of a distributed run, as torchrun, SLURM or Lightning name it."""
    return int(next((os.environ[name] for name in _RANKS if name in os.environ), 0))


def write_run_files(config: RunConfig, states: Sequence[StageState]) -> None:
    """Write ``config.yaml`` and ``manifest.json`` of a run, once a stage of it is complete.

    A run that fails before, by a mistake in what was asked, leaves no folder behind.

    Raises:
        StorageError: If the folder cannot be written.
    """
    if not any(state.cached for state in states):
        return
    folder, values = config.folder, plain(config)
    with complete_file(folder / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    stages = {
        state.name: {"folder": state.folder.name, "key": state.key, "seconds": state.seconds, "figures": state.figures}
        for state in states
        if state.cached
    }
    manifest = {"name": config.name, "config_digest": digest(values), "versions": library_versions(), "stages": stages}
    write_json(folder / "manifest.json", manifest)


def _spent(work: Path) -> float:
    """Seconds that earlier, stopped attempts took; a killed one did not say."""
    try:
        return float(json.loads((work / "spent.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return 0.0


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete {folder} to make it again") from error
