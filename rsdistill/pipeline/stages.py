"""What each stage of a run does: the way of the data from a dataset to tiles and a report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rsdistill.audit import Auditor, AuditReport, apply
from rsdistill.bands import get_bands
from rsdistill.captions import CAPTIONERS, Captioner, Captions, class_prompts
from rsdistill.captions.base import scrub_captions
from rsdistill.codecs import CODECS, Codec, LatentStore, create_codec, encode, load_codec
from rsdistill.datasets import DATASETS, SceneData, SplitOptions, load_dataset, load_prepared, prepare
from rsdistill.datasets.loading import resolve_policy
from rsdistill.diffusion.prototypes import Prototypes
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import DISTILLERS, Distiller
from rsdistill.distillers.base import check_class_sizes, check_protection
from rsdistill.errors import OptionError, PolicyError, storage_errors
from rsdistill.evaluation import EvaluationReport, Recipe, evaluate
from rsdistill.export import GeoRef, export_tiles
from rsdistill.models.networks import check_student
from rsdistill.pipeline.config import RunConfig
from rsdistill.pipeline.engine import Figures, Pipeline, Stage, process_rank
from rsdistill.report import write_audit, write_report
from rsdistill.screen import screen, train_detectors
from rsdistill.sensitive.policy import Policy
from rsdistill.sensitive.resolved import ResolvedPolicy
from rsdistill.sensitive.scrub import find_terms, scrub
from rsdistill.training.callbacks import LOG, training_log
from rsdistill.training.trainer import resolve_device
from rsdistill.utils.io import complete_folder, write_json
from rsdistill.utils.options import plain

AUDIT, PAGE, SET = "audit.json", "audit.html", "distilled.nc"


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
        write_json(folder / numbered(AUDIT, number), report.to_dict())
        apply(tiles, report).save(folder / numbered(SET, number))
    show_real = config.report.show_real
    write_audit(folder / PAGE, report=reports[0], data=data, tiles=sets[0], show_real=show_real)
    return reports


def numbered(name: str, number: int) -> str:
    """Name of the file of a set; the first one's bears no number."""
    stem, dot, suffix = name.partition(".")
    return name if number == 0 else f"{stem}_{number + 1}{dot}{suffix}"


def _with_membership(
    report: AuditReport, tiles: DistilledSet, data: SceneData, config: RunConfig, checkpoint: Path | None
) -> AuditReport:
    """The report with the figures of the membership attack, where one is asked for."""
    shadows = config.audit.membership
    if shadows is None:
        return report
    from rsdistill.audit.membership import membership

    options = {"shadows": shadows}
    return report.with_membership(
        membership(tiles, data, config.evaluation.recipe, options, checkpoint, config.trainer)
    )


_EVALUATION, _PROTOTYPES = "evaluation.json", "prototypes.nc"
_CHIPS, _CODEC, _LATENTS, _TILES, _REPORT = "chips", "codec", "latents.zarr", "tiles", "report.html"
_CAPTIONS, _SCREEN, _QUARANTINE = "captions.jsonl", "screen.json", "quarantine.nc"


class Run:
    """One configured run: its stages, and what they made, loaded when asked for.

    Every option is checked when the run is built, before a pixel is read or a folder made.

    Args:
        config: The configuration.

    Raises:
        OptionError: If an option is unknown or does not fit.
        DeviceError: If the device asked for is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        self.distiller = _distiller(config.distill.method, config.distill.options, "distill.options")
        given = config.codec.options
        told = self.distiller.codec_defaults(config.codec.name, given) | given
        self.config = config = replace(config, codec=replace(config.codec, options=told))
        self.trainer = config.trainer
        resolve_device(self.trainer)
        _dataset_options(config), _split(config)
        CODECS.parse(config.codec.name, config.codec.options, "codec.options")
        self._georef = GeoRef(config.export.gsd, config.export.epsg, config.export.origin)
        self.recipe = Recipe.of(config.evaluation.recipe)
        check_student(self.recipe.student, self.recipe.student_options)
        self.captioner = _captioner(config)
        if self.distiller.needs_writer() and not self.captioner.can_write:
            raise OptionError(
                f"option distill.options.aggregation.kind 'llm': captioner '{config.captions.name}' has no model that "
                "writes text; set captions.name to vlm, or choose 'frequency' or 'medoid'"
            )
        self.baselines = {name: _distiller(name, {}, "") for name in config.evaluation.baselines}
        if self._uses_latents:
            self._check_size()
        self._policy = None if config.data.policy is None else Policy.load(config.data.policy)
        if self.policy is not None:
            check_protection(self.distiller, self.policy.protected, config.captions.name)
            _check_texts(self.policy, config.distill.options, "distill.options")
            _check_texts(self.policy, config.captions.options, "captions.options")
        self.pipeline = Pipeline(config.folder, self._stages())

    def folder(self, stage: str) -> Path:
        """Folder of a stage."""
        return next(state.folder for state in self.pipeline.states() if state.name == stage)

    def load_data(self) -> SceneData:
        """The dataset as it is at its root, not yet prepared."""
        return load_data(self.config)

    @cached_property
    def policy(self) -> ResolvedPolicy | None:
        """What the policy makes of the dataset's classes; None without a policy.

        The run folder does not keep the names of what was left out, so the dataset is asked for them.
        """
        if self._policy is None:
            return None
        return resolve_policy(self._policy, self.config.data.name, _dataset_options(self.config))

    @cached_property
    def data(self) -> SceneData:
        """The prepared dataset."""
        return load_prepared(self.folder("prepare") / _CHIPS)

    @cached_property
    def captions(self) -> Captions | None:
        """Captions of the train chips; None where their class's name says all."""
        return Captions.load(self.folder("captions") / _CAPTIONS) if self._uses_captions else None

    @property
    def _uses_captions(self) -> bool:
        told = self.config.captions
        return bool(self.distiller.captioned_stages) and bool(told.name != "template" or told.options)

    @cached_property
    def codec(self) -> Codec:
        """The fitted codec, on the device of the run."""
        return load_codec(self.folder("codec") / _CODEC).to(resolve_device(self.trainer))

    @cached_property
    def latents(self) -> LatentStore | None:
        """The latent store; None if no method of the run needs one."""
        return LatentStore(self.folder("encode") / _LATENTS, self.codec) if self._uses_latents else None

    @property
    def _uses_latents(self) -> bool:
        return any(method.uses_latents for method in (self.distiller, *self.baselines.values()))

    def sets(self, stage: str = "audit") -> list[DistilledSet]:
        """The distilled sets, one a generation seed: with the audit's verdicts, or as stage ``distill`` made them."""
        folder = self.folder(stage)
        return [DistilledSet.load(folder / _set_name(number)) for number in range(len(self.config.distill.seeds))]

    def audit(self) -> AuditReport:
        """What the audit of the first set found."""
        return AuditReport.from_dict(json.loads((self.folder("audit") / AUDIT).read_text("utf-8")))

    def evaluation(self) -> EvaluationReport:
        """What the evaluation found."""
        return EvaluationReport.from_dict(json.loads((self.folder("evaluate") / _EVALUATION).read_text("utf-8")))

    @property
    def _screens(self) -> bool:
        return self.config.screen is not None and self.policy is not None and bool(self.policy.excluded)

    @property
    def _made(self) -> str:
        """The stage that leaves the sets as they are audited, judged and exported."""
        return "screen" if self._screens else "distill"

    def _check_size(self) -> None:
        """Refuse a size of chips that codec or method cannot halve as often as they need."""
        # The factor does not depend on the bands, which only the dataset knows.
        factor = create_codec(self.config.codec.name, get_bands("rgb"), **self.config.codec.options).factor
        size = self.config.data.size
        least = factor * self.distiller.latent_multiple()
        if size % least:
            raise OptionError(
                f"option data.size {size}: codec and method need a multiple of {least}; "
                f"choose {max(least, round(size / least) * least)}"
            )

    def _stages(self) -> list[Stage]:
        config, method = self.config, self.distiller
        data = plain(config.data)
        # What the policy says counts, not where it lies.
        if data.pop("policy") is not None and self._policy is not None:
            data["policy"] = self._policy.digest
        precision = config.trainer.precision
        stages = [Stage("prepare", data, (), self._prepare)]
        words: dict[str, tuple[str, ...]] = {}
        if self._uses_captions:
            captions = {"captions": plain(config.captions), "files": self.captioner.input_digest()}
            stages.append(Stage("captions", captions, ("prepare",), self._caption, collective=True))
            words = dict.fromkeys(method.captioned_stages, ("captions",))
        if self._uses_latents:
            codec = {"codec": plain(config.codec), "precision": precision}
            stages.append(Stage("codec", codec, ("prepare",), self._fit_codec, collective=True))
            stages.append(Stage("encode", {"views": config.encode.views}, ("prepare", "codec"), self._encode))
        last = stages[-1].name
        fitted: tuple[str, ...] = ()
        for name in method.fit_stages:
            options = {
                "method": config.distill.method,
                "options": plain(method.stage_options(name)),
                "precision": precision,
            }
            inputs = ("prepare",) if name in method.pixel_stages else (last, *words.get(name, ()), *fitted)
            stages.append(Stage(name, options, inputs, self._fit(name), collective=True))
            fitted = (*fitted, name)
        if method.uses_prototypes:
            options = {"options": plain(method.stage_options("prototypes")), "ipc": config.distill.ipc}
            stages.append(Stage("prototypes", options, (last, *words.get("prototypes", ())), self._find_prototypes))
            fitted = (*fitted, "prototypes")
        distill = {"distill": plain(config.distill), "options": plain(method.stage_options("distill"))}
        stages.append(Stage("distill", distill, (last, *fitted), self._distill, collective=True))
        if self._screens:
            stages.append(Stage("screen", plain(config.screen), ("distill",), self._screen))
        # The page shows real chips or not, so it is made anew when that changes.
        audit = {"audit": plain(config.audit), "show_real": config.report.show_real}
        if config.audit.membership is not None:
            audit["recipe"] = plain(config.evaluation.recipe)
        stages.append(Stage("audit", audit, (self._made,), self._audit))
        stages.append(Stage("evaluate", plain(config.evaluation), (self._made,), self._evaluate))
        export = {name: value for name, value in plain(config.export).items() if name != "workers"}
        stages.append(Stage("export", export, ("audit",), self._export))
        stages.append(Stage("report", plain(config.report), ("evaluate", "export"), self._report))
        return stages

    def _prepare(self, folder: Path, _: Path) -> Figures:
        data = self.load_data()
        check_class_sizes(data, self.config.distill.ipc)
        prepare(data, folder / _CHIPS)
        return {"classes": len(data.classes), "train": len(data.train), "val": len(data.val), "test": len(data.test)}

    def _caption(self, folder: Path, checkpoint: Path) -> Figures:
        data = self.load_data() if self.captioner.needs_names else self.data
        captions = self.captioner.caption(data, "train", checkpoint, self.trainer)
        prompts = class_prompts(data.classes)
        clean = scrub_captions(captions, data.train.labels, prompts, self._terms, self._kept_names)
        clean.save(folder / _CAPTIONS)
        return {"chips": len(clean), **clean.figures}

    @property
    def _terms(self) -> tuple[str, ...]:
        """Words that no text of the run may hold."""
        return () if self.policy is None else self.policy.terms

    @property
    def _kept_names(self) -> tuple[str, ...]:
        return tuple(info.name for info in self.data.classes) if self.policy is None else self.policy.kept_names

    def _fit_codec(self, folder: Path, checkpoint: Path) -> Figures:
        codec = create_codec(self.config.codec.name, self.data.bands, **self.config.codec.options)
        codec.fit(self.data, checkpoint, self.trainer)
        codec.save(folder / _CODEC)
        _keep_log(checkpoint, folder)
        return codec.figures(self.data)

    def _encode(self, folder: Path, _: Path) -> Figures:
        options = self.config.encode
        store = encode(
            self.codec, self.data, folder / _LATENTS, options.views, options.batch, progress=self.trainer.progress
        )
        shape = store.open()["mean"].shape
        return {"latents": shape[0], "shape": list(shape[1:])}

    def _fit(self, stage: str) -> Any:
        def make(folder: Path, checkpoint: Path) -> Figures:
            figures = self._fitted(before=stage).fit_stage(stage, checkpoint, self.trainer)
            self.distiller.save_stage(stage, folder / stage)
            _keep_log(checkpoint, folder)
            return figures

        return make

    def _find_prototypes(self, folder: Path, _: Path) -> Figures:
        write = self.captioner.writer(self.trainer) if self.captions and self.distiller.needs_writer() else None
        terms, kept = self._terms, self._kept_names
        scrubbed = None if write is None else lambda request: scrub(write(request), terms, kept)
        self.distiller.attach(self.data, self.latents, self.captions, scrubbed)
        table = self.distiller.find_prototypes(self.config.distill.ipc)
        table.to_xarray().to_netcdf(folder / _PROTOTYPES, engine="h5netcdf")
        return table.summary()

    def _distill(self, folder: Path, checkpoint: Path) -> Figures:
        method, options = self._ready(), self.config.distill
        # All processes draw each set, finished or not: they meet there. Then the first one makes the sets, alone,
        # since what it does with them may take longer than others would wait for it in the next drawing.
        for number, seed in enumerate(options.seeds):
            method.draw(options.ipc, seed, checkpoint / f"drawn_{number}", self.trainer)
        if process_rank():
            return {}
        for number, seed in enumerate(options.seeds):
            done = checkpoint / _set_name(number)
            if not done.exists():
                method.distill(options.ipc, seed).save(done)
            shutil.copy2(done, folder / done.name)
        first = DistilledSet.load(folder / _set_name(0))
        return {"tiles": len(first), "sets": len(options.seeds), "megabytes": round(first.image.nbytes / 1e6, 2)}

    def _screen(self, folder: Path, checkpoint: Path) -> Figures:
        options, policy = self.config.screen, self.policy
        assert options is not None and policy is not None
        # Of all the run, the detectors alone see chips of excluded classes; they live in memory and end here.
        # Of all classes, too: data.classes may not name an excluded one.
        given = {name: value for name, value in _dataset_options(self.config).items() if name != "classes"}
        everything = load_dataset(self.config.data.name, split=_split(self.config), **given)
        detectors = train_detectors(everything, policy.excluded, options, self.trainer)
        method, ipc, held = self._ready(), self.config.distill.ipc, 0
        for number, (seed, tiles) in enumerate(zip(self.config.distill.seeds, self.sets("distill"), strict=True)):
            redraw = partial(method.redraw, ipc, seed)
            # Outside the result: what was held back stays to be looked at even if the set is given up.
            held_back = checkpoint / numbered(_QUARANTINE, number)
            held_back.unlink(missing_ok=True)
            kept, report = screen(tiles, detectors, redraw, options.attempts, held_back)
            if held_back.exists():
                shutil.copy2(held_back, folder / held_back.name)
            kept.save(folder / _set_name(number))
            write_json(folder / numbered(_SCREEN, number), report.to_dict())
            held += report.quarantined
        return {"tiles": len(kept), "quarantined": held}

    def _audit(self, folder: Path, checkpoint: Path) -> Figures:
        found = write_audits(self.sets(self._made), self.data, self.config, folder, checkpoint)[0]
        return {
            **found.counts,
            "train_neighbour_pixels": round(found.held_out_null_pixels.rate, 3),
            "train_neighbour_features": round(found.held_out_null_features.rate, 3),
        }

    def _evaluate(self, folder: Path, checkpoint: Path) -> Figures:
        options = self.config.evaluation
        made = {self.config.distill.method: self.sets(self._made)}
        for name, method in self.baselines.items():
            if name not in made:
                method.attach(self.data, self.latents)
                made[name] = [method.distill(self.config.distill.ipc, seed) for seed in self.config.distill.seeds]
        found = evaluate(made, self.data, self.recipe, options.seeds, options.full, checkpoint, self.trainer)
        write_json(folder / _EVALUATION, found.to_dict())
        return {f"oa_{row.method}_{row.track}": round(row.oa, 4) for row in found.rows}

    def _export(self, folder: Path, _: Path) -> Figures:
        options = self.config.export
        tiles = self.sets()[0]
        export_tiles(
            tiles,
            folder / _TILES,
            georef=self._georef,
            dtype=options.dtype,
            workers=options.workers,
            progress=self.trainer.progress,
            geoparquet=options.geoparquet,
            allow_blocked=options.allow_blocked,
        )
        manifest = json.loads((folder / _TILES / "manifest.json").read_text("utf-8"))
        return {"tiles": len(manifest["tiles"]), "blocked_left_out": manifest["audit"]["left_out"]}

    def _report(self, folder: Path, _: Path) -> Figures:
        options = self.config.report
        done = [
            {"name": state.name, "seconds": state.seconds, "figures": state.figures}
            for state in self.pipeline.states()
            if state.cached
        ]
        page = write_report(
            folder / _REPORT,
            title=self.config.name,
            config=plain(self.config),
            data=self.data,
            tiles=self.sets()[0],
            evaluation=self.evaluation(),
            stages=done,
            show_real=options.show_real,
            columns=options.columns,
            training={name: training_log(self.folder(name) / LOG) for name in self.distiller.fit_stages},
        )
        # Beside the stages too, where people look first.
        with storage_errors(self.config.folder):
            shutil.copy2(page, self.config.folder / _REPORT)
        return {"kilobytes": round(page.stat().st_size / 1e3)}

    def _ready(self) -> Distiller:
        """The method with all that it needs to make sets."""
        method = self._fitted()
        if method.uses_prototypes:
            table = Prototypes.load(self.folder("prototypes") / _PROTOTYPES)
            method.use_prototypes(self.config.distill.ipc, table)
        return method

    def _fitted(self, before: str | None = None) -> Distiller:
        """The method with what its earlier stages learned."""
        self.distiller.attach(self.data, self.latents, self.captions)
        for name in self.distiller.fit_stages:
            if name == before or before in self.distiller.pixel_stages:
                break
            self.distiller.load_stage(name, self.folder(name) / name, self.trainer)
        return self.distiller


def load_data(config: RunConfig) -> SceneData:
    """The dataset of a configuration as it is at its root, not yet prepared."""
    return load_dataset(config.data.name, split=_split(config), policy=config.data.policy, **_dataset_options(config))


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
        return write_audits([tiles], load_data(config), config, partial)[0]


def _set_name(number: int) -> str:
    return numbered(SET, number)


def _dataset_options(config: RunConfig) -> dict[str, Any]:
    given = {
        "root": config.data.root,
        "size": config.data.size,
        "bands": config.data.bands,
        "classes": config.data.classes,
    }
    options = {name: value for name, value in given.items() if value is not None} | config.data.options
    return DATASETS.parse(config.data.name, options, "data.options")


def _split(config: RunConfig) -> SplitOptions:
    return SplitOptions(config.data.scheme, config.data.train, config.data.val, config.data.seed)


def _distiller(name: str, options: Mapping[str, Any], where: str) -> Distiller:
    return DISTILLERS.get(name).factory(**DISTILLERS.parse(name, options, where))


def _captioner(config: RunConfig) -> Captioner:
    name, options = config.captions.name, config.captions.options
    return CAPTIONERS.get(name).factory(**CAPTIONERS.parse(name, options, "captions.options"))


def _check_texts(policy: ResolvedPolicy, options: Any, where: str) -> None:
    """Refuse options, such as a prompt, that say a word that the policy keeps out of all texts."""
    if isinstance(options, str):
        found = find_terms(options, policy.terms, policy.kept_names)
        if found:
            raise PolicyError(f"option {where} says '{found[0]}', which the policy lets no text say; reword it")
    elif isinstance(options, Mapping):
        for name, value in options.items():
            _check_texts(policy, value, f"{where}.{name}")


def _keep_log(checkpoint: Path, folder: Path) -> None:
    """Keep the training log; the checkpoint itself goes once the stage is complete."""
    if (checkpoint / LOG).exists():
        shutil.copytree(checkpoint / LOG, folder / LOG)
