"""A configured run, its plan, and what can be asked of a set that was made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from rsdistill.audit import AuditReport
from rsdistill.datasets import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.distillers.base import check_class_sizes
from rsdistill.evaluation import EvaluationReport, evaluate
from rsdistill.pipeline.config import RunConfig
from rsdistill.pipeline.engine import Pipeline, Stage
from rsdistill.pipeline.output_stages import Audit, Evaluate, Report, output_stages, write_audits
from rsdistill.pipeline.setup import Setup
from rsdistill.pipeline.stages import Encode, Prepare, making_stages
from rsdistill.utils.io import complete_folder

T = TypeVar("T", bound=Stage)
_GB = 1e9


class Run:
    """One configured run: its stages, and what they made, loaded when asked for.

    Every option is checked when the run is built, before a pixel is read or a folder made.

    Args:
        config: The configuration.

    Attributes:
        setup: The plug-ins and the policy of the run.
        config: The configuration with what follows from its method.
        pipeline: Its stages, what of them is complete, and their order.

    Raises:
        OptionError: If an option is unknown or does not fit.
        PolicyError: If the policy does not allow what is asked for.
        DeviceError: If the device asked for is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        self.setup = Setup(config)
        self.config = self.setup.config
        making = making_stages(self.setup)
        self.pipeline = Pipeline(self.config.folder, [*making, *output_stages(self.setup, making)])
        self._of(Report).run_states = self.pipeline.states

    @property
    def data(self) -> SceneData:
        """The prepared dataset."""
        return self._of(Prepare).data

    @property
    def latents(self) -> Encode | None:
        """The stage that holds the latents; None if no method of the run needs any."""
        return next((stage for stage in self.pipeline.stages if isinstance(stage, Encode)), None)

    def folder(self, stage: str) -> Path:
        """Folder of a stage."""
        return next(found.folder for found in self.pipeline.stages if found.name == stage)

    def sets(self) -> list[DistilledSet]:
        """The distilled sets with the audit's verdicts, one a generation seed."""
        return self._of(Audit).sets()

    def audit(self) -> AuditReport:
        """What the audit of the first set found."""
        return self._of(Audit).report()

    def evaluation(self) -> EvaluationReport:
        """What the evaluation found."""
        return self._of(Evaluate).report()

    def table(self) -> str | None:
        """Accuracies and leakage as text; None while there are none."""
        judged = self._of(Evaluate).name
        done = any(state.cached for state in self.pipeline.states() if state.name == judged)
        return self.evaluation().table() if done else None

    def outputs(self) -> dict[str, Path]:
        """What a person looks for in the run's folder, by name, as far as it is made."""
        done = {state.name for state in self.pipeline.states() if state.cached}
        found: dict[str, Path] = {}
        for stage in self.pipeline.stages:
            if stage.name in done:
                found |= stage.outputs()
        return found

    def _of(self, kind: type[T]) -> T:
        return next(stage for stage in self.pipeline.stages if isinstance(stage, kind))


def plan_table(run: Run, until: str | None = None) -> str:
    """What a run would do, as plain text.

    Args:
        run: The run.
        until: Last stage; None for all.

    Returns:
        A line a stage: its state, and estimates of its size on disk and of its memory.
    """
    states, config = run.pipeline.states(), run.config
    data = run.data if states[0].cached else run.setup.load_data()
    check_class_sizes(data, run.setup.distiller, config.distill.ipc)
    counts = f"{len(data.train)} train, {len(data.val)} val, {len(data.test)} test chips, {len(data.classes)} classes"
    lines = [f"{config.name} in {config.folder}: {counts}, {len(data.bands)} bands", ""]
    lines.append(f"{'stage':22} {'state':18} {'disk, MB':>9} {'memory, GB':>11}  what it does")
    for stage, state in zip(run.pipeline.stages, states, strict=True):
        what = f"complete ({state.seconds:.0f} s)" if state.cached else "to do"
        size = stage.estimate(data)
        numbers = f"{size.disk / 1e6:9.1f} {size.memory / _GB:11.1f}"
        lines.append(f"{state.folder.name:22} {what:18} {numbers}  {stage.summary}")
        if state.name == until:
            break
    return "\n".join(lines)


def audit_set(tiles: DistilledSet, config: RunConfig, folder: Path, overwrite: bool = False) -> AuditReport:
    """Audit a set that was made elsewhere; the folder gets what the stage of a run would.

    Args:
        tiles: The set.
        config: Its groups ``data``, ``audit`` and ``report`` count.
        folder: The folder to make.
        overwrite: Replace a folder that is there.

    Raises:
        AuditError: If set and dataset do not belong together.
        StorageError: If the folder exists, or cannot be written.
    """
    with complete_folder(folder, overwrite) as partial:
        return write_audits([tiles], Setup(config).load_data(), config, partial)[0]


def evaluate_set(tiles: DistilledSet, config: RunConfig, folder: Path | None = None) -> EvaluationReport:
    """Judge a set that was made elsewhere beside all real chips.

    Args:
        tiles: The set.
        config: Its groups ``data``, ``evaluation`` and ``trainer`` count.
        folder: Where finished students are kept, to continue from; None keeps none.

    Raises:
        BandError: If the set has other bands than the dataset.
        SplitError: If there are no test chips.
    """
    setup, options = Setup(config), config.evaluation
    return evaluate(tiles, setup.load_data(), setup.recipe, options.seeds, options.full, folder, setup.trainer)
