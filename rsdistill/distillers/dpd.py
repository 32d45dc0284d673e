"""``dpd``: discriminative prototype-guided diffusion, the main method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.captions import TEMPLATE, class_prompts
from rsdistill.captions.aggregate import AggregationOptions, aggregate
from rsdistill.codecs.store import LatentStore
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
from rsdistill.distillers.base import DISTILLERS, Distiller, check_class_sizes
from rsdistill.distillers.candidate_selection import Choice, SelectionOptions, SoftLabelOptions, choose
from rsdistill.distillers.matching_networks import Observers, train_observers
from rsdistill.distillers.refinement import RefinementOptions, refine
from rsdistill.errors import ModelError
from rsdistill.imaging.normalisation import to_sensor
from rsdistill.training.callbacks import LOG, training_log
from rsdistill.training.trainer import TrainerOptions, derived_seed, resolve_device

_DECODE_BATCH = 64


@DISTILLERS.register(
    "dpd",
    summary="prototype-guided diffusion with candidate selection",
    source="Xu, Ghamisi and Weng, arXiv 2601.15829",
)
class DPD(Distiller):
    """Prototypes guide a class-prompted diffusion model; a teacher chooses among candidates.

    Args:
        preset: One of ``rsdistill presets``, from scratch or pretrained; or a pretrained pipeline of Stable
            Diffusion's layout: its folder in diffusers' format, or its hub id, with ``@revision`` for a fixed one.
        prediction: What the denoiser predicts; None for v from scratch, and for what a pretrained one does.
        lora: Low-rank updates of a pretrained model; None trains its whole UNet.
        unet_label: Label for a UNet that takes labels beside the text, such as the zoom level of text2earth;
            0 says nothing.
        prompt: Template of the class prompts, ``{name}`` stands for the readable class name.
        teacher: Options of the latent teacher.
        training: Options of the denoiser's training.
        prototypes: Options of the prototypes.
        aggregation: How the captions of a prototype's cluster become its prompt, where there are captions.
        sampling: Options of the sampling and its guidance.
        candidates: Tiles drawn for each prototype, of which one is kept.
        selection: How it is chosen.
        refinement: How the chosen tiles are refined; off with ``steps`` 0.
        soft_labels: Soft labels from the teacher, kept beside the hard ones.
        seed: Seed of everything learned.
    """

    name = "dpd"
    pixel_stages = ("observers",)
    uses_latents = True
    captioned_stages = ("train", "prototypes")
    uses_prototypes = True

    def __init__(
        self,
        preset: str = "tiny",
        prediction: Prediction | None = None,
        lora: LoraOptions | None = None,
        unet_label: Annotated[int, Field(ge=0)] = 0,
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
        self.preset, self.prediction, self.lora, self.unet_label = preset, prediction, lora, unet_label
        self.plan_, self.prompt = ModelPlan(preset, prediction, lora, unet_label), prompt
        self.teacher, self.training, self.prototypes, self.sampling = teacher, training, prototypes, sampling
        self.aggregation, self.candidates, self.seed = aggregation, candidates, seed
        self.selection, self.refinement, self.soft_labels = selection, refinement, soft_labels
        self.fit_stages = ("teacher", "train", *(("observers",) if refinement.steps else ()))
        self.teacher_: LatentTeacher | None = None
        self.model_: DiffusionModel | None = None
        self.base_: dict[str, Any] | None = None
        self.prototypes_: dict[int, Prototypes] = {}
        self.observers_: Observers | None = None
        self.drawn_: dict[tuple[int, int], Path] = {}
        self.trainer_ = TrainerOptions()

    def fit_stage(self, stage: str, folder: Path | None, trainer: TrainerOptions | None = None) -> dict[str, Any]:
        """Train the teacher, the denoiser or the observers; see :meth:`Distiller.fit_stage`."""
        self.trainer_ = trainer or TrainerOptions()
        if stage == "observers":
            self.observers_, figures = train_observers(
                self.data_, self.refinement.observers, self.seed, folder, trainer
            )
            return figures
        if stage == "teacher":
            self.teacher_, figures = train_teacher(
                self._latents(), len(self.data_.classes), self.teacher, self.seed, folder, trainer
            )
            return figures
        prompts = class_prompts(self.data_.classes, self.prompt)
        codec = self._latents().codec
        captions = self.captions_
        model = self.plan_.build(codec, prompts, self._size, derived_seed(self.seed, 30), sentences(captions))
        self.model_ = train_denoiser(
            model, self._latents(), prompts, self.training, self.teacher_, self.seed, folder, trainer, captions
        )
        taken = self.training.limited(len(self._latents().positions("train", views=True))).steps
        cut = {} if captions is None else {"captions_cut": count_cut(model, captions)}
        sizes = {"parameters": model.unet.parameters(), "trained": model.learned()}
        log = {} if folder is None else training_log(folder / LOG)
        held_out = {name: round(values[-1], 4) for name, (_, values) in log.items() if name.startswith("val_")}
        return {
            "steps": taken,
            **{name: sum(p.numel() for p in part) for name, part in sizes.items()},
            **held_out,
            **cut,
        }

    def save_stage(self, stage: str, folder: Path) -> None:
        """Write the teacher, the observers, or the model in diffusers' format."""
        teacher, model, observers = self.teacher_, self.model_, self.observers_
        if stage == "teacher" and teacher is not None:
            teacher.save(folder)
        elif stage == "observers" and observers is not None:
            observers.save(folder)
        elif stage == "train" and model is not None:
            self.plan_.save(model, folder)
            self.base_ = base_of(folder)

    def load_stage(self, stage: str, folder: Path, trainer: TrainerOptions | None = None) -> None:
        """Read what :meth:`save_stage` wrote."""
        self.trainer_ = trainer or TrainerOptions()
        device = resolve_device(trainer)
        if stage == "teacher":
            self.teacher_ = LatentTeacher.load(folder).to(device)
        elif stage == "observers":
            self.observers_ = Observers.load(folder).to(device)
        else:
            self.model_ = self.plan_.load(folder, self._latents().codec, self._size).to(device)
            self.base_ = base_of(folder)

    def needs_writer(self) -> bool:
        """See :meth:`Distiller.needs_writer`."""
        return self.aggregation.kind == "llm"

    def latent_multiple(self) -> int:
        """The denoiser halves latents once between two of its resolutions."""
        return int(2 ** halvings(self.preset))

    def stage_options(self, stage: str) -> dict[str, Any]:
        """See :meth:`Distiller.stage_options`."""
        names = {
            "teacher": ("teacher", "seed"),
            "train": ("prompt", "training", "seed"),
            "observers": ("seed",),
            "prototypes": ("preset", "prompt", "prototypes", "aggregation", "seed"),
            "distill": ("sampling", "candidates", "selection", "refinement", "soft_labels", "seed"),
        }[stage]
        more = {"train": self.plan_.options(), "observers": {"observers": self.refinement.observers}}
        return {name: getattr(self, name) for name in names} | more.get(stage, {})

    def pretrained_memory(self, stage: str) -> float:
        """See :meth:`Distiller.pretrained_memory`."""
        return self.plan_.memory(stage == "train") if stage in ("train", "distill", "screen") else 0.0

    def codec_defaults(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Codecs ``pretrained`` and ``inflated`` take the autoencoder of a pretrained preset, unless told otherwise."""
        source = self.plan_.source
        if source is None:
            return {}
        if name == "pretrained":
            return {"source": self.preset}
        if name == "inflated" and "pretrained" not in given:
            return {"pretrained": source.place, "revision": source.revision, "subfolder": "vae"}
        return {}

    def find_prototypes(self, ipc: int) -> Prototypes:
        """Prototypes for so many images per class, found once."""
        if ipc not in self.prototypes_:
            check_class_sizes(self.fitted(), ipc)
            table = find_prototypes(self._latents(), ipc, self.prototypes, self.seed)
            self.prototypes_[ipc] = self._with_prompts(table)
        return self.prototypes_[ipc]

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

    def use_prototypes(self, ipc: int, table: Prototypes) -> None:
        """See :meth:`Distiller.use_prototypes`."""
        self.prototypes_[ipc] = table

    def draw(self, ipc: int, seed: int, folder: Path, trainer: TrainerOptions) -> None:
        """Draw the candidates; see :meth:`Distiller.draw`."""
        request = self._request(ipc, np.arange(len(self.find_prototypes(ipc).label)), seed)
        draw_into(folder, self._fitted()[0], request, self.sampling, trainer)
        self.drawn_[ipc, seed] = folder

    def distill(self, ipc: int, seed: int = 0) -> DistilledSet:
        """Draw candidates for each prototype, keep the best and refine them; see :meth:`Distiller.distill`."""
        check_class_sizes(self.fitted(), ipc)
        labels = self.find_prototypes(ipc).label
        slots = np.arange(len(labels))
        request, folder = self._request(ipc, slots, seed), self.drawn_.pop((ipc, seed), None)
        model = self._fitted()[0]
        drawn = (
            draw(model, request, self.sampling, self.trainer_.progress)
            if folder is None
            else drawn_in(folder, request, self.sampling)
        )
        choice = self._choose(labels, drawn)
        if self.refinement.steps:
            choice = self._refined(choice, labels, seed, folder)
        return self._made(ipc, seed, slots, choice)

    def redraw(self, ipc: int, seed: int, positions: NDArray[np.int64], attempt: int) -> DistilledSet:
        """Further candidates for the prototypes at these positions; see :meth:`Distiller.redraw`.

        They are not refined, which is done with all tiles of a class together.
        """
        slots = np.asarray(positions)
        request = self._request(ipc, slots, seed, attempt)
        drawn = draw(self._fitted()[0], request, self.sampling, self.trainer_.progress)
        return self._made(ipc, seed, slots, self._choose(self.find_prototypes(ipc).label[slots], drawn))

    def _choose(self, labels: NDArray[np.int64], drawn: torch.Tensor) -> Choice:
        """One candidate for each slot, given the slots' classes and all candidates (slots x candidates, C, h, w)."""
        return choose(drawn, labels, self.candidates, self._latents(), self._fitted()[1], self.selection)

    def _refined(self, choice: Choice, labels: NDArray[np.int64], seed: int, folder: Path | None) -> Choice:
        """The tiles of a whole set, refined."""
        if self.observers_ is None:
            raise ModelError("distiller 'dpd' has no observers to refine with; call fit(data, latents) first")
        codec, number = self._latents().codec, derived_seed(self.seed, 32, seed)
        latents = refine(choice.latents, labels, self.observers_, codec, self.refinement, number, folder, self.trainer_)
        return choice.moved(latents, labels, self._fitted()[1])

    def _made(self, ipc: int, seed: int, slots: NDArray[np.int64], choice: Choice) -> DistilledSet:
        """Tiles of some slots of the prototype table."""
        table = self.find_prototypes(ipc)
        return DistilledSet(
            image=self._decode(choice.latents),
            label=table.label[slots],
            classes=self.data_.classes,
            bands=self.data_.bands,
            gsd=self.data_.gsd,
            manifest=self.manifest(ipc, seed)
            | {"prototypes": table.summary(), "selection": choice.summary(), **self._provenance()},
            soft_label=self.soft_labels.of(choice.logits),
            caption=[table.prompt[slot] for slot in slots],
            score=choice.margin,
        )

    def _request(self, ipc: int, slots: NDArray[np.int64], seed: int, attempt: int = 0) -> Request:
        """The candidates of some slots of the prototype table; another attempt asks for others."""
        table, repeated = self.find_prototypes(ipc), np.repeat(slots, self.candidates)
        numbers = [slot * self.candidates + n for slot in slots.tolist() for n in range(self.candidates)]
        more = (attempt,) if attempt else ()
        return Request(
            [table.prompt[slot] for slot in repeated],
            [derived_seed(self.seed, 31, seed, number, *more) for number in numbers],
            table.latent[torch.from_numpy(repeated)],
        )

    def _fitted(self) -> tuple[DiffusionModel, LatentTeacher]:
        if self.model_ is None or self.teacher_ is None:
            raise ModelError("distiller 'dpd' is not fitted; call fit(data, latents) first")
        return self.model_, self.teacher_

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
        codec = self._latents().codec
        decoded = [to_sensor(codec.decode(part), codec.bands) for part in latents.split(_DECODE_BATCH)]
        return np.concatenate(decoded)

    def _latents(self) -> LatentStore:
        if getattr(self, "latents_", None) is None:
            raise ModelError("distiller 'dpd' is not fitted; call fit(data, latents) first")
        assert self.latents_ is not None
        return self.latents_
