"""The stages of a run from the dataset to the distilled sets; those after them are in ``output_stages``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from rsdistill.captions import Captions, class_prompts
from rsdistill.captions.base import scrub_captions
from rsdistill.codecs import Codec, LatentStore, create_codec, encode, load_codec
from rsdistill.datasets import SceneData, load_prepared, prepare
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import Distiller, FitStep
from rsdistill.distillers.base import CAPTIONS, LATENTS, check_class_sizes
from rsdistill.pipeline.engine import Estimate, Figures, Stage, process_rank
from rsdistill.pipeline.setup import Setup
from rsdistill.sensitive.scrub import scrub
from rsdistill.training.callbacks import LOG
from rsdistill.training.trainer import resolve_device
from rsdistill.utils.options import plain

# What the libraries alone take, and what a small model with its gradients, optimiser and activations
# adds while it trains; measured on Linux with the quickstart.
LIBRARIES, TRAINING = 1.0e9, 0.6e9
_IN_MEMORY = 2e9

T = TypeVar("T", bound=Stage)


class RunStage(Stage):
    """A stage of a configured run.

    Args:
        setup: What the config asks for.
        *inputs: The stages it reads.

    Attributes:
        plugin_kinds: What of the run's plug-ins its result depends on, as :meth:`Setup.plugins` takes it.
    """

    plugin_kinds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, setup: Setup, *inputs: Stage) -> None:
        self.setup, self.config, self.inputs = setup, setup.config, inputs

    @property
    def plugins(self) -> tuple[object, ...]:  # type: ignore[override]
        """The classes and functions behind what the stage uses of the run's plug-ins."""
        return tuple(plugin for kind in self.plugin_kinds for plugin in self.setup.plugins(kind))

    def source(self, kind: type[T]) -> T:
        """The input of a kind."""
        return next(stage for stage in self.inputs if isinstance(stage, kind))


class Prepare(RunStage):
    """The dataset, resampled and split."""

    name = "prepare"
    summary = "read, check, resample and split the dataset"
    plugin_kinds = ("dataset",)

    @property
    def options(self) -> Any:
        """The group ``data``; of a policy counts what it says."""
        options = plain(self.config.data)
        del options["policy"]
        return options if self.setup.policy_digest is None else {**options, "policy": self.setup.policy_digest}

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Read and write every chip."""
        data = self.setup.load_data()
        check_class_sizes(data, self.setup.distiller, self.config.distill.ipc)
        prepare(data, folder / "chips")
        return {"classes": len(data.classes), "train": len(data.train), "val": len(data.val), "test": len(data.test)}

    @cached_property
    def data(self) -> SceneData:
        """The prepared dataset."""
        return load_prepared(self.folder / "chips")

    def estimate(self, data: SceneData) -> Estimate:
        """All chips on disk."""
        chips = len(data.train) + len(data.val) + len(data.test)
        return Estimate(chips * chip_bytes(self.config, data), LIBRARIES + 512 * chip_bytes(self.config, data))


class Caption(RunStage):
    """Captions of the train chips."""

    name = "captions"
    summary = "put the train chips into words"
    plugin_kinds = ("captioner",)
    collective = True

    @property
    def options(self) -> Any:
        """The group ``captions``, and what the captioner's files hold."""
        return {"captions": plain(self.config.captions), "files": self.setup.captioner.input_digest()}

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Caption, and drop what the policy lets no text say."""
        setup = self.setup
        data = setup.load_data() if setup.captioner.needs_names else self.source(Prepare).data
        captions = setup.captioner.caption(data, "train", checkpoint, setup.trainer)
        names = setup.kept_names(self.source(Prepare).data)
        clean = scrub_captions(captions, data.train.labels, class_prompts(data.classes), setup.terms, names)
        clean.save(folder / "captions.jsonl")
        return {"chips": len(clean), **clean.figures}

    @cached_property
    def captions(self) -> Captions:
        """The captions."""
        return Captions.load(self.folder / "captions.jsonl")

    def estimate(self, data: SceneData) -> Estimate:
        """A few hundred bytes a chip."""
        return Estimate(200 * len(data.train), LIBRARIES + 2 * chip_bytes(self.config, data))


class FitCodec(RunStage):
    """The codec."""

    name = "codec"
    summary = "fit the codec between chips and latents"
    plugin_kinds = ("codec",)
    collective = True

    @property
    def options(self) -> Any:
        """The group ``codec``, and the precision it is trained in."""
        return {"codec": plain(self.config.codec), "precision": self.config.trainer.precision}

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Fit on the train chips."""
        data = self.source(Prepare).data
        codec = create_codec(self.config.codec.name, data.bands, **self.config.codec.options)
        codec.fit(data, checkpoint, self.setup.trainer)
        codec.save(folder / "codec")
        keep_log(checkpoint, folder)
        return codec.figures(data)

    @cached_property
    def codec(self) -> Codec:
        """The fitted codec, on the device of the run."""
        return load_codec(self.folder / "codec").to(resolve_device(self.setup.trainer))

    def estimate(self, data: SceneData) -> Estimate:
        """A small network."""
        return Estimate(20e6, LIBRARIES + TRAINING)


class Encode(RunStage):
    """The latents of all train and validation chips."""

    name = "encode"
    summary = "cache the latents"

    @property
    def options(self) -> Any:
        """The number of views; the batch does not change the result."""
        return {"views": self.config.encode.views}

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Encode in batches."""
        options, codec, data = self.config.encode, self.source(FitCodec).codec, self.source(Prepare).data
        progress = self.setup.trainer.progress
        store = encode(codec, data, folder / "latents.zarr", options.views, options.batch, progress=progress)
        shape = store.open()["mean"].shape
        return {"latents": shape[0], "shape": list(shape[1:])}

    @cached_property
    def latents(self) -> LatentStore:
        """The latent store."""
        return LatentStore(self.folder / "latents.zarr", self.source(FitCodec).codec)

    def estimate(self, data: SceneData) -> Estimate:
        """Mean and variance of each view."""
        return Estimate(latent_bytes(self.config, data), LIBRARIES + TRAINING)


class Fit(RunStage):
    """One step of what the method learns.

    Args:
        setup: What the config asks for.
        step: The step.
        sources: The stages that hold what it needs: prepared chips first, then latents, captions, earlier steps.
    """

    plugin_kinds = ("distiller",)

    def __init__(self, setup: Setup, step: FitStep, sources: Sequence[Stage]) -> None:
        super().__init__(setup, *sources)
        self.name, self.summary, self.collective, self.step = step.name, step.summary, step.collective, step

    @property
    def options(self) -> Any:
        """Those that the step names, the method's name and the precision."""
        config = self.config
        told = {"method": config.distill.method, "options": plain(self.step.options)}
        return told | {"precision": config.trainer.precision}

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Fit, and keep what was learned."""
        attach(self.setup, self.inputs)
        figures = dict(self.step.fit(checkpoint))
        if not process_rank():
            (folder / self.name).mkdir()
            self.step.save(folder / self.name)
            keep_log(checkpoint, folder)
        return figures

    def load(self) -> None:
        """Give the method what it learned here."""
        self.step.load(self.folder / self.name)

    def estimate(self, data: SceneData) -> Estimate:
        """A small network, the latents that it holds, and the pretrained weights that it names."""
        held = min(latent_bytes(self.config, data), _IN_MEMORY) if LATENTS in self.step.needs else 0.0
        return Estimate(60e6, LIBRARIES + TRAINING + held + self.step.memory)


class SetStage(RunStage):
    """A stage that leaves sets, one a generation seed."""

    def sets(self) -> list[DistilledSet]:
        """The sets as the stage left them."""
        return [DistilledSet.load(self.folder / set_name(n)) for n in range(len(self.config.distill.seeds))]


class Distill(SetStage):
    """The distilled sets as the method makes them."""

    name = "distill"
    summary = "make the distilled sets"
    plugin_kinds = ("distiller",)

    @property
    def options(self) -> Any:
        """The group ``distill``; a pretrained model counts by its name."""
        return plain(self.config.distill)

    def make(self, folder: Path, checkpoint: Path) -> Figures:
        """Make each set; one that is finished survives a kill."""
        options, method = self.config.distill, self.method(checkpoint)
        for number, seed in enumerate(options.seeds):
            done = checkpoint / set_name(number)
            if not done.exists():
                method.distill(options.ipc, seed).save(done)
            shutil.copy2(done, folder / done.name)
        first = DistilledSet.load(folder / set_name(0))
        return {"tiles": len(first), "sets": len(options.seeds), "megabytes": round(first.image.nbytes / 1e6, 2)}

    def method(self, work: Path | None = None) -> Distiller:
        """The method with all that it needs to make sets."""
        return attach(self.setup, self.inputs, work)

    def estimate(self, data: SceneData) -> Estimate:
        """The tiles of all sets."""
        tiles = tile_bytes(self.config, data)
        memory = LIBRARIES + 4 * tiles + self.setup.distiller.requirements.memory
        return Estimate(tiles * len(self.config.distill.seeds), memory)


def making_stages(setup: Setup) -> list[Stage]:
    """The stages up to the distilled sets, as the config and the records of its method ask for; ``Distill`` is last."""
    prepared = Prepare(setup)
    found: list[Stage] = [prepared]
    sources: dict[str, Stage] = {}
    if setup.uses_captions:
        sources[CAPTIONS] = Caption(setup, prepared)
        found.append(sources[CAPTIONS])
    if setup.uses_latents:
        fitted = FitCodec(setup, prepared)
        sources[LATENTS] = Encode(setup, prepared, fitted)
        found += [fitted, sources[LATENTS]]
    for step in setup.distiller.steps(setup.config.distill.ipc, setup.config.distill.seeds):
        known = [sources[name] for name in step.needs if name in sources]
        sources[step.name] = Fit(setup, step, [prepared, *known])
        found.append(sources[step.name])
    return [*found, Distill(setup, prepared, *sources.values())]


def attach(setup: Setup, inputs: Sequence[Stage], work: Path | None = None) -> Distiller:
    """The method of a run with what these stages hold."""
    of = {type(stage): stage for stage in inputs}
    prepared, words, encoded = of[Prepare], of.get(Caption), of.get(Encode)
    assert isinstance(prepared, Prepare)
    captions = words.captions if isinstance(words, Caption) else None
    latents = encoded.latents if isinstance(encoded, Encode) else None
    write = _writer(setup, prepared.data) if captions is not None and setup.distiller.requirements.writer else None
    setup.distiller.attach(prepared.data, latents, captions, write, setup.trainer, work)
    for stage in inputs:
        if isinstance(stage, Fit):
            stage.load()
    return setup.distiller


def _writer(setup: Setup, data: SceneData) -> Callable[[str], str]:
    """The captioner's model, loaded when it is first asked; what it writes is scrubbed."""
    model = cache(lambda: setup.captioner.writer(setup.trainer))
    return lambda request: scrub(model()(request), setup.terms, setup.kept_names(data))


def keep_log(checkpoint: Path, folder: Path) -> None:
    """Keep the training log; the checkpoint itself goes once the stage is complete."""
    if (checkpoint / LOG).exists():
        shutil.copytree(checkpoint / LOG, folder / LOG)


def numbered(name: str, number: int) -> str:
    """Name of the file of a set; the first one's bears no number."""
    stem, dot, suffix = name.partition(".")
    return name if number == 0 else f"{stem}_{number + 1}{dot}{suffix}"


def set_name(number: int) -> str:
    """Name of a set's file."""
    return numbered("distilled.nc", number)


def chip_bytes(config: Any, data: SceneData) -> int:
    """Bytes of one chip."""
    return int(len(data.bands) * config.data.size**2 * np.dtype(data.bands.dtype).itemsize)


def tile_bytes(config: Any, data: SceneData) -> int:
    """Bytes of the tiles of a set."""
    return int(config.distill.ipc * len(data.classes) * chip_bytes(config, data))


def latent_bytes(config: Any, data: SceneData) -> int:
    """Bytes of the latent store."""
    codec = create_codec(config.codec.name, data.bands, **config.codec.options)
    latent = 2 * 4 * codec.latent_channels * (config.data.size // codec.factor) ** 2
    return int(latent * (len(data.train) * config.encode.views + len(data.val)))
