"""``dpd``: discriminative prototype-guided diffusion, the main method."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.captions import TEMPLATE, class_prompts
from rsdistill.captions.aggregate import AggregationOptions, aggregate
from rsdistill.diffusion.caption_tokens import count_cut, sentences
from rsdistill.diffusion.denoising import DenoisingOptions, train_denoiser
from rsdistill.diffusion.lora import LoraOptions
from rsdistill.diffusion.model import DiffusionModel, Prediction
from rsdistill.diffusion.model_factory import ModelPlan, base_of
from rsdistill.diffusion.presets import halvings
from rsdistill.diffusion.prototypes import PrototypeOptions, Prototypes, find_prototypes
from rsdistill.diffusion.sampling import Request, SamplingOptions, draw, draw_into, drawn_in
from rsdistill.diffusion.teacher import LatentTeacher, TeacherOptions, train_teacher
from rsdistill.distilled import DistilledSet
from rsdistill.distillers.base import (
    CAPTIONS,
    DEFAULT,
    DISTILLERS,
    LATENTS,
    Distiller,
    FitStep,
    Requirements,
    check_class_sizes,
)
from rsdistill.distillers.candidate_selection import Choice, SelectionOptions, SoftLabelOptions, choose
from rsdistill.distillers.matching_networks import MatchingNetworks, train_matching_networks
from rsdistill.distillers.refinement import RefinementOptions, refine
from rsdistill.errors import ModelError
from rsdistill.imaging.normalisation import to_sensor
from rsdistill.training.callbacks import LOG, training_log
from rsdistill.training.trainer import derived_seed, resolve_device

T = TypeVar("T")

SHARED = "kanonymous"
"""The kind of prototypes that protected classes may be distilled with."""
_DECODE_BATCH = 64
_PROTOTYPES = "prototypes.nc"


@DISTILLERS.register(
    DEFAULT,
    summary="prototype-guided diffusion with candidate selection",
    source="Xu, Ghamisi and Weng, arXiv 2601.15829",
)
class DPD(Distiller):
    """Prototypes guide a class-prompted diffusion model; a teacher chooses among candidates.

    Args:
        preset: One of ``rsdistill list presets``, from scratch or pretrained; or a pretrained pipeline of Stable
            Diffusion's layout: its folder in diffusers' format, or its hub id, with ``@revision`` for a fixed one.
        prediction: What the denoiser predicts; None for v from scratch, and for what a pretrained one does.
        lora: Low-rank updates of a pretrained model; None trains its whole UNet.
        unet_class_label: What diffusers' UNets take as ``class_labels`` beside the text, such as the zoom level of
            text2earth; 0 says nothing.
        prompt: Template of the class prompts, ``{name}`` stands for the readable class name.
        teacher: Options of the latent teacher.
        training: Options of the denoiser's training.
        prototypes: Options of the prototypes.
        aggregation: How the captions of a prototype's cluster become its prompt, where there are captions.
        sampling: Options of the sampling and its guidance.
        candidates: Tiles drawn for each prototype; of those of a class as many are kept as it has prototypes.
        selection: How it is chosen.
        refinement: How the chosen tiles are refined; off with ``steps`` 0.
        soft_labels: Soft labels from the teacher, kept beside the hard ones.
        seed: Seed of everything learned.
    """

    name = DEFAULT
    RENAMED: ClassVar[dict[str, str]] = {"unet_label": "unet_class_label"}

    def __init__(
        self,
        preset: str = "tiny",
        prediction: Prediction | None = None,
        lora: LoraOptions | None = None,
        unet_class_label: Annotated[int, Field(ge=0)] = 0,
        prompt: str = TEMPLATE,
        teacher: TeacherOptions = TeacherOptions(),
        training: DenoisingOptions = DenoisingOptions(),
        prototypes: PrototypeOptions = PrototypeOptions(),
        aggregation: AggregationOptions = AggregationOptions(),
        sampling: SamplingOptions = SamplingOptions(),
        candidates: Annotated[int, Field(ge=1)] = 4,
        selection: SelectionOptions = SelectionOptions(),
        refinement: RefinementOptions = RefinementOptions(),
        soft_labels: SoftLabelOptions = SoftLabelOptions(),
        seed: int = 0,
    ) -> None:
        self.preset, self.prediction, self.lora, self.unet_class_label = preset, prediction, lora, unet_class_label
        self.plan_, self.prompt = ModelPlan(preset, prediction, lora, unet_class_label), prompt
        self.teacher, self.training, self.prototypes, self.sampling = teacher, training, prototypes, sampling
        self.aggregation, self.candidates, self.seed = aggregation, candidates, seed
        self.selection, self.refinement, self.soft_labels = selection, refinement, soft_labels
        self.teacher_: LatentTeacher | None = None
        self.model_: DiffusionModel | None = None
        self.base_: dict[str, Any] | None = None
        self.networks_: MatchingNetworks | None = None
        self.table_: tuple[int, Prototypes] | None = None
        self.drawn_: dict[tuple[int, int], Path] = {}

    @property
    def requirements(self) -> Requirements:
        """Latents that the denoiser can halve as often as it must, and the codec of a pretrained preset."""
        source = self.plan_.source
        codec_options: dict[str, dict[str, Any]] = {}
        if source is not None:
            own = {"pretrained": source.place, "revision": source.revision, "subfolder": "vae"}
            codec_options = {"pretrained": {"source": self.preset}, "inflated": own}
        return Requirements(
            latents=True,
            captions=True,
            writer="distill.options.aggregation.kind 'llm'" if self.aggregation.kind == "llm" else "",
            size_multiple=int(2 ** halvings(self.preset)),
            codec_options=codec_options,
            memory=self.plan_.memory(training=False),
        )

    def steps(self, ipc: int | None = None, seeds: Sequence[int] = ()) -> list[FitStep]:
        """Teacher, denoiser, matching networks where tiles are herded or refined, prototypes, candidates."""
        found = [self._teacher_step(), self._train_step()]
        if self.refinement.steps or self.selection.kind == "herding":
            found.append(self._networks_step())
        if ipc is not None:
            found += [self._prototypes_step(ipc), self._candidates_step(ipc, seeds)]
        return found

    def _teacher_step(self) -> FitStep:
        def fit(folder: Path | None) -> dict[str, float]:
            latents, classes = self.fitted_latents(), len(self.data_.classes)
            self.teacher_, figures = train_teacher(latents, classes, self.teacher, self.seed, folder, self.trainer_)
            return figures

        def save(folder: Path) -> None:
            _made(self.teacher_).save(folder)

        def load(folder: Path) -> None:
            self.teacher_ = LatentTeacher.load(folder).to(resolve_device(self.trainer_))

        options = {"teacher": self.teacher, "seed": self.seed}
        return FitStep("teacher", "train the latent teacher", options, fit, save, load, (LATENTS,))

    def _train_step(self) -> FitStep:
        def save(folder: Path) -> None:
            self.plan_.save(_made(self.model_), folder)
            self.base_ = base_of(folder)

        def load(folder: Path) -> None:
            latents = self.fitted_latents()
            self.model_ = self.plan_.load(folder, latents.codec, self._size).to(resolve_device(self.trainer_))
            self.base_ = base_of(folder)

        options = {name: getattr(self, name) for name in ("prompt", "training", "seed")} | self.plan_.options()
        return FitStep(
            "train",
            "train the diffusion model",
            options,
            self._train,
            save,
            load,
            needs=(LATENTS, CAPTIONS, "teacher"),
            memory=self.plan_.memory(training=True),
        )

    def _train(self, folder: Path | None) -> dict[str, Any]:
        """Train the denoiser; figures of its size and of the last validation."""
        latents, captions = self.fitted_latents(), self.captions_
        prompts, seed = class_prompts(self.data_.classes, self.prompt), derived_seed(self.seed, 30)
        model = self.plan_.build(latents.codec, prompts, self._size, seed, sentences(captions))
        self.model_ = train_denoiser(
            model, latents, prompts, self.training, self.teacher_, self.seed, folder, self.trainer_, captions
        )
        taken = self.training.limited(len(latents.positions("train", views=True))).steps
        cut = {} if captions is None else {"captions_cut": count_cut(model, captions)}
        weights = {"parameters": model.unet.parameters(), "trained": model.learned()}
        sizes = {name: sum(p.numel() for p in part) for name, part in weights.items()}
        log = {} if folder is None else training_log(folder / LOG)
        held_out = {name: round(values[-1], 4) for name, (_, values) in log.items() if name.startswith("val_")}
        return {"steps": taken, **sizes, **held_out, **cut}

    def _networks_step(self) -> FitStep:
        def fit(folder: Path | None) -> dict[str, float]:
            self.networks_, figures = train_matching_networks(
                self.fitted(), self.refinement.networks, self.seed, folder, self.trainer_
            )
            return figures

        def save(folder: Path) -> None:
            _made(self.networks_).save(folder)

        def load(folder: Path) -> None:
            self.networks_ = MatchingNetworks.load(folder).to(resolve_device(self.trainer_))

        options = {"networks": self.refinement.networks, "seed": self.seed}
        summary = "train the networks in whose features tiles are matched"
        return FitStep("matching_networks", summary, options, fit, save, load)

    def _prototypes_step(self, ipc: int) -> FitStep:
        def fit(_: Path | None) -> dict[str, Any]:
            return self._table(ipc).summary()

        def save(folder: Path) -> None:
            self._table(ipc).to_xarray().to_netcdf(folder / _PROTOTYPES, engine="h5netcdf")

        def load(folder: Path) -> None:
            self.table_ = ipc, Prototypes.load(folder / _PROTOTYPES)

        names = ("preset", "prompt", "prototypes", "aggregation", "seed")
        options = {name: getattr(self, name) for name in names} | {"ipc": ipc}
        needs = (LATENTS, CAPTIONS)
        return FitStep("prototypes", "find the prototypes", options, fit, save, load, needs, collective=False)

    def _candidates_step(self, ipc: int, seeds: Sequence[int]) -> FitStep:
        def fit(folder: Path | None) -> dict[str, Any]:
            table = self._table(ipc)
            slots = np.arange(len(table.label))
            if folder is None:
                return {}
            for seed in seeds:
                request, place = self._request(table, slots, seed), folder / f"seed_{seed}"
                draw_into(place, _made(self.model_), request, self.sampling, self.trainer_)
                self.drawn_[ipc, seed] = place
            return {"candidates": self.candidates * len(slots), "sets": len(seeds)}

        def save(folder: Path) -> None:
            for seed in seeds:
                shutil.copytree(self.drawn_[ipc, seed], folder / f"seed_{seed}", ignore=shutil.ignore_patterns(".*"))

        def load(folder: Path) -> None:
            self.drawn_ |= {(ipc, seed): folder / f"seed_{seed}" for seed in seeds}

        options = {"ipc": ipc, "seeds": list(seeds)}
        options |= {name: getattr(self, name) for name in ("sampling", "candidates", "seed")}
        needs, memory = (LATENTS, "train", "prototypes"), self.plan_.memory(training=False)
        return FitStep("candidates", "draw the candidates", options, fit, save, load, needs, memory)

    def protection_gap(self) -> str:
        """Protected classes need prototypes of several chips each, and hard labels."""
        if self.prototypes.kind != SHARED:
            return (
                f"option distill.options.prototypes.kind is '{self.prototypes.kind}'; it must be '{SHARED}', so that "
                "every prototype rests on several chips"
            )
        if self.soft_labels.top_k:
            return (
                "option distill.options.soft_labels asks for soft labels, which tell how alike its chips are to "
                "others; leave it out"
            )
        return ""

    def _table(self, ipc: int) -> Prototypes:
        """Prototypes for so many images per class, found once."""
        if self.table_ is None or self.table_[0] != ipc:
            check_class_sizes(self.fitted(), self, ipc)
            found = find_prototypes(self.fitted_latents(), ipc, self.prototypes, self.seed)
            self.table_ = ipc, self._with_prompts(found)
        return self.table_[1]

    def _with_prompts(self, table: Prototypes) -> Prototypes:
        """The table with a prompt for each prototype, out of the captions of its cluster."""
        captions, classes = self.captions_, self.data_.classes
        prompts = class_prompts(classes, self.prompt)
        heads = [prompts[label] for label in table.label]
        if captions is None:
            return replace(table, prompt=tuple(heads))
        words = aggregate(
            [[captions.texts[chip] for chip in chips] for chips in table.members],
            [classes[label].name for label in table.label],
            heads,
            self.plan_.tokenizer(prompts, sentences(captions)),
            self.aggregation,
            write=self.write_,
        )
        figures = {"prompts_shortened": words.shortened, "prompts_bare": words.bare}
        return replace(table, prompt=tuple(words.prompts), prompt_figures=figures)

    def distill(self, ipc: int, seed: int = 0) -> DistilledSet:
        """Draw candidates for each prototype, keep the best and refine them; see :meth:`Distiller.distill`."""
        table = self._table(ipc)
        slots = np.arange(len(table.label))
        request, folder = self._request(table, slots, seed), self.drawn_.get((ipc, seed))
        drawn = self._draw(request) if folder is None else drawn_in(folder, request, self.sampling)
        choice = self._choose(table.label, drawn)
        if self.refinement.steps:
            choice = self._refined(choice, table.label, seed)
        return self._as_set(ipc, seed, table, slots, choice)

    def redraw(self, ipc: int, seed: int, positions: NDArray[np.int64], attempt: int) -> DistilledSet:
        """Further candidates for the prototypes at these positions; see :meth:`Distiller.redraw`.

        They are not refined, which is done with all tiles of a class together.
        """
        table, slots = self._table(ipc), np.asarray(positions)
        drawn = self._draw(self._request(table, slots, seed, attempt))
        return self._as_set(ipc, seed, table, slots, self._choose(table.label[slots], drawn))

    def _draw(self, request: Request) -> torch.Tensor:
        return draw(_made(self.model_), request, self.sampling, self.trainer_.progress)

    def _choose(self, labels: NDArray[np.int64], drawn: torch.Tensor) -> Choice:
        """One candidate for each slot, given the slots' classes and all candidates (slots x candidates, C, h, w)."""
        return choose(
            drawn,
            labels,
            self.candidates,
            self.fitted_latents(),
            _made(self.teacher_),
            self.selection,
            _made(self.networks_) if self.selection.kind == "herding" else None,
        )

    def _refined(self, choice: Choice, labels: NDArray[np.int64], seed: int) -> Choice:
        """The tiles of a whole set, refined."""
        networks, codec = _made(self.networks_), self.fitted_latents().codec
        number = derived_seed(self.seed, 32, seed)
        latents = refine(choice.latents, labels, networks, codec, self.refinement, number, self.work_, self.trainer_)
        return choice.moved(latents, labels, _made(self.teacher_))

    def _as_set(self, ipc: int, seed: int, table: Prototypes, slots: NDArray[np.int64], choice: Choice) -> DistilledSet:
        """Tiles of some slots of the prototype table."""
        return DistilledSet(
            image=self._decode(choice.latents),
            label=table.label[slots],
            classes=self.data_.classes,
            bands=self.data_.bands,
            gsd=self.data_.gsd,
            manifest=self.manifest(ipc, seed)
            | {"prototypes": table.summary(), "selection": choice.summary(), **self._provenance()},
            soft_label=self.soft_labels.of(choice.logits),
            caption=[table.prompt[slots[position // self.candidates]] for position in choice.position],
            score=choice.margin,
        )

    def _request(self, table: Prototypes, slots: NDArray[np.int64], seed: int, attempt: int = 0) -> Request:
        """The candidates of some slots of the prototype table; another attempt asks for others."""
        repeated = np.repeat(slots, self.candidates)
        numbers = [slot * self.candidates + n for slot in slots.tolist() for n in range(self.candidates)]
        more = (attempt,) if attempt else ()
        return Request(
            [table.prompt[slot] for slot in repeated],
            [derived_seed(self.seed, 31, seed, number, *more) for number in numbers],
            table.latent[torch.from_numpy(repeated)],
        )

    def _provenance(self) -> dict[str, Any]:
        base = {} if self.base_ is None else {"base": self.base_}
        return base if self.captions_ is None else {**base, "captions": self.captions_.provenance()}

    def manifest(self, ipc: int, seed: int) -> dict[str, Any]:
        """See :meth:`Distiller.manifest`; a base is called by its name, not by its path."""
        told = super().manifest(ipc, seed)
        source = self.plan_.source
        return told if source is None else {**told, "options": {**told["options"], "preset": source.title}}

    @property
    def _size(self) -> int:
        """Side of the chips in pixels."""
        return int(self.data_.train[0]["image"].shape[-1])

    def _decode(self, latents: torch.Tensor) -> np.ndarray[Any, Any]:
        codec = self.fitted_latents().codec
        decoded = [to_sensor(codec.decode(part), codec.bands) for part in latents.split(_DECODE_BATCH)]
        return np.concatenate(decoded)


def _made(part: T | None) -> T:
    """A part that a step of the fit has made.

    Raises:
        ModelError: If there is none yet.
    """
    if part is None:
        raise ModelError("distiller 'dpd' is not fitted; call fit(data, latents) first")
    return part
