"""The stages of a run after the distilled sets: screen, audit, evaluation, export, report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rsdistill.audit import Auditor, AuditReport, apply
from rsdistill.audit.membership import membership
from rsdistill.datasets import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.errors import storage_errors
from rsdistill.evaluation import EvaluationReport, evaluate
from rsdistill.export import export_tiles
from rsdistill.pipeline.config import RunConfig
from rsdistill.pipeline.engine import Estimate, Figures, Stage, StageState
from rsdistill.pipeline.setup import Setup
from rsdistill.pipeline.stages import (
    LIBRARIES,
    TRAINING,
    Distill,
    Encode,
    Fit,
    Prepare,
    RunStage,
    SetStage,
    numbered,
    set_name,
    tile_bytes,
)
from rsdistill.report import write_audit, write_report
from rsdistill.screen import screen, train_detectors
from rsdistill.training.callbacks import LOG, training_log
from rsdistill.utils.io import write_json
from rsdistill.utils.options import plain


class Screen(SetStage):
    """The sets without tiles that look like an excluded class."""

    name = "screen"
    summary = "replace what looks like an excluded class"

    @property
    def options(self) -> Any:
        """The group ``screen``."""
        return plain(self.config.screen)

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Train the detectors, hold tiles back, draw others."""
        options, policy = self.config.screen, self.setup.policy
        assert options is not None and policy is not None
        # Of all the run, the detectors alone see chips of excluded classes; they live in memory and end here.
        detectors = train_detectors(self.setup.load_everything(), policy.excluded, options, self.setup.trainer)
        made, ipc, held = self.source(Distill), self.config.distill.ipc, 0
        method = made.method()
        for number, (seed, tiles) in enumerate(zip(self.config.distill.seeds, made.sets(), strict=True)):
            redraw = partial(method.redraw, ipc, seed)
            # Outside the result: what was held back stays to be looked at even if the set is given up.
            held_back = checkpoint / numbered("quarantine.nc", number)
            held_back.unlink(missing_ok=True)
            kept, report = screen(tiles, detectors, redraw, options.attempts, held_back)
            if held_back.exists():
                shutil.copy2(held_back, folder / held_back.name)
            kept.save(folder / set_name(number))
            write_json(folder / numbered("screen.json", number), report.to_dict())
            held += report.quarantined
        return {"tiles": len(kept), "quarantined": held}

    def estimate(self, data: SceneData) -> Estimate:
        """All sets twice, and the detectors."""
        tiles = tile_bytes(self.config, data)
        memory = LIBRARIES + TRAINING + 4 * tiles + self.setup.distiller.requirements.memory
        return Estimate(2 * tiles * len(self.config.distill.seeds), memory)


class Audit(SetStage):
    """What the sets leak, tile by tile."""

    name = "audit"
    summary = "search the sets for leaked chips"

    @property
    def options(self) -> Any:
        """The group ``audit``, whether the page shows real chips, and the students of a membership attack."""
        options = {"audit": plain(self.config.audit), "show_real": self.config.report.show_real}
        return options if self.config.audit.membership is None else options | {"recipe": self.config.evaluation.recipe}

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Audit every set."""
        sets = self.source(SetStage).sets()  # type: ignore[type-abstract]
        data = self.source(Prepare).data
        found = write_audits(sets, data, self.config, folder, checkpoint)[0]
        return {
            **found.counts,
            "train_neighbour_pixels": round(found.held_out_null_pixels.rate, 3),
            "train_neighbour_features": round(found.held_out_null_features.rate, 3),
        }

    def report(self) -> AuditReport:
        """What was found in the first set."""
        return AuditReport.from_dict(json.loads((self.folder / "audit.json").read_text("utf-8")))

    def outputs(self) -> dict[str, Path]:
        """The set with its verdicts, and the page."""
        return {"set": self.folder / set_name(0), "audit": self.folder / "audit.html"}

    def estimate(self, data: SceneData) -> Estimate:
        """The tiles with verdicts."""
        tiles = tile_bytes(self.config, data)
        return Estimate(tiles * len(self.config.distill.seeds), LIBRARIES + TRAINING + 4 * tiles)


class Evaluate(RunStage):
    """How students do that learn from the sets, from baselines and from all real chips."""

    name = "evaluate"
    summary = "judge the sets beside the baselines"
    plugin_kinds = ("student", "metrics", "baselines")

    @property
    def options(self) -> Any:
        """The group ``evaluation``."""
        return plain(self.config.evaluation)

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Make the baselines' sets, train all students."""
        config, setup, data = self.config, self.setup, self.source(Prepare).data
        latents = next((stage.latents for stage in self.inputs if isinstance(stage, Encode)), None)
        made = {config.distill.method: self.source(SetStage).sets()}  # type: ignore[type-abstract]
        for name, method in setup.baselines.items():
            if name not in made:
                method.fit(data, latents, checkpoint / name, setup.trainer)
                made[name] = [method.distill(config.distill.ipc, seed) for seed in config.distill.seeds]
        options = config.evaluation
        found = evaluate(
            made, data, setup.recipe, options.seeds, options.full, checkpoint, setup.trainer, metrics=options.metrics
        )
        write_json(folder / "evaluation.json", found.to_dict())
        return {f"oa_{row.method}_{row.label_type}": round(row.oa, 4) for row in found.rows}

    def report(self) -> EvaluationReport:
        """What was found."""
        return EvaluationReport.from_dict(json.loads((self.folder / "evaluation.json").read_text("utf-8")))

    def estimate(self, data: SceneData) -> Estimate:
        """All chips at the students' size, and what trains on them."""
        side = self.setup.recipe.size or self.config.data.size
        chips = (len(data.train) + len(data.test)) * len(data.bands) * 4 * side**2
        return Estimate(1e5, LIBRARIES + 3 * chips)


class Export(RunStage):
    """The tiles of the first set."""

    name = "export"
    summary = "write tiles and index"
    plugin_kinds = ("formats",)

    @property
    def options(self) -> Any:
        """The group ``export`` but for the number of processes."""
        return {name: value for name, value in plain(self.config.export).items() if name != "workers"}

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Write the folder of tiles."""
        options = self.config.export
        export_tiles(
            self.source(Audit).sets()[0],
            folder / "tiles",
            georef=self.setup.georef,
            dtype=options.dtype,
            workers=options.workers,
            progress=self.setup.trainer.progress,
            formats=options.formats,
            allow_blocked=options.allow_blocked,
        )
        manifest = json.loads((folder / "tiles" / "manifest.json").read_text("utf-8"))
        return {"tiles": len(manifest["tiles"]), "blocked_left_out": manifest["audit"]["left_out"]}

    def outputs(self) -> dict[str, Path]:
        """The folder of tiles."""
        return {"export": self.folder / "tiles"}

    def estimate(self, data: SceneData) -> Estimate:
        """Tiles and mosaics."""
        return Estimate(2 * tile_bytes(self.config, data), LIBRARIES)


class Report(RunStage):
    """The page that shows all of it."""

    name = "report"
    summary = "write the report"

    def __init__(
        self, setup: Setup, prepared: Prepare, audited: Audit, judged: Evaluate, exported: Export, fits: Sequence[Fit]
    ) -> None:
        super().__init__(setup, judged, exported)
        self._prepared, self._audited, self._fits = prepared, audited, fits
        # Where each stage of the run stands; the run sets it.
        self.run_states: Callable[[], Sequence[StageState]] = tuple

    @property
    def options(self) -> Any:
        """The group ``report``."""
        return plain(self.config.report)

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Write the page, and a copy where people look first."""
        options = self.config.report
        done = [
            {"name": state.name, "seconds": state.seconds, "figures": state.figures}
            for state in self.run_states()
            if state.cached
        ]
        page = write_report(
            folder / "report.html",
            title=self.config.name,
            config=plain(self.config),
            data=self._prepared.data,
            tiles=self._audited.sets()[0],
            evaluation=self.source(Evaluate).report(),
            stages=done,
            show_real=options.show_real,
            columns=options.columns,
            training={stage.name: training_log(stage.folder / LOG) for stage in self._fits},
        )
        with storage_errors(self.config.folder):
            shutil.copy2(page, self.config.folder / "report.html")
        return {"kilobytes": round(page.stat().st_size / 1e3)}

    def outputs(self) -> dict[str, Path]:
        """The page."""
        return {"report": self.folder / "report.html"}

    def estimate(self, data: SceneData) -> Estimate:
        """A page with pictures."""
        return Estimate(2e6, LIBRARIES)


def output_stages(setup: Setup, making: Sequence[Stage]) -> list[Stage]:
    """The stages after those that make the sets."""
    prepared, made = making[0], making[-1]
    assert isinstance(prepared, Prepare) and isinstance(made, Distill)
    encoded = [stage for stage in making if isinstance(stage, Encode)]
    final = Screen(setup, made) if setup.screens else made
    audited, judged = Audit(setup, prepared, final), Evaluate(setup, prepared, final, *encoded)
    exported = Export(setup, audited)
    fits = [stage for stage in making if isinstance(stage, Fit)]
    report = Report(setup, prepared, audited, judged, exported, fits)
    return [*([final] if setup.screens else []), audited, judged, exported, report]


def write_audits(
    sets: Sequence[DistilledSet], data: SceneData, config: RunConfig, folder: Path, checkpoint: Path | None = None
) -> list[AuditReport]:
    """Audit sets, and write what was found beside the sets with their verdicts.

    Args:
        sets: The sets; the page is of the first one.
        data: The dataset that they were made from.
        config: Its groups ``audit``, ``evaluation`` and ``report`` count.
        folder: Gets ``audit.json`` and ``distilled.nc``, of further sets with their number, and ``audit.html``.
        checkpoint: Where finished students of the membership attack are kept; None keeps none.
    """
    auditor = Auditor(data, config.audit)
    reports = [_with_membership(auditor.audit(tiles), tiles, data, config, checkpoint) for tiles in sets]
    for number, (tiles, report) in enumerate(zip(sets, reports, strict=True)):
        write_json(folder / numbered("audit.json", number), report.to_dict())
        apply(tiles, report).save(folder / set_name(number))
    show_real = config.report.show_real
    write_audit(folder / "audit.html", report=reports[0], data=data, tiles=sets[0], show_real=show_real)
    return reports


def _with_membership(
    report: AuditReport, tiles: DistilledSet, data: SceneData, config: RunConfig, checkpoint: Path | None
) -> AuditReport:
    """The report with the figures of the membership attack, where one is asked for."""
    options = config.audit.membership
    if options is None:
        return report
    found = membership(tiles, data, config.evaluation.recipe, options, checkpoint, config.trainer)
    return report.with_membership(found)
