"""``dpd``: discriminative prototype-guided diffusion, the main method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from rsdistill.captions import TEMPLATE, class_prompts
from rsdistill.codecs.normalise import to_sensor
from rsdistill.codecs.store import LatentStore
from rsdistill.diffusion.denoising import DenoisingOptions, train_denoiser
from rsdistill.diffusion.model import PRESETS, DiffusionModel, Prediction, PresetName
from rsdistill.diffusion.prototypes import PrototypeOptions, Prototypes, find_prototypes
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.diffusion.teacher import LatentTeacher, TeacherOptions, margin, train_teacher
from rsdistill.distilled import DistilledSet
from rsdistill.distillers.base import DISTILLERS, Distiller, check_class_sizes
from rsdistill.errors import ModelError
from rsdistill.training import TrainerOptions, derived_seed, resolve_device

_DECODE_BATCH = 64


@DISTILLERS.register(
    "dpd",
    summary="prototype-guided diffusion with candidate selection",
    source="Xu, Ghamisi and Weng, arXiv 2601.15829",
)
class DPD(Distiller):
    """Prototypes guide a class-prompted diffusion model; a teacher chooses among candidates.

    Args:
        preset: Shape of the diffusion model trained from scratch.
        prediction: What the denoiser predicts.
        prompt: Template of the prompts, ``{name}`` stands for the readable class name.
        teacher: Options of the latent teacher.
        training: Options of the denoiser's training.
        prototypes: Options of the prototypes.
        sampling: Options of the sampling and its guidance.
        candidates: Tiles drawn for each prototype, of which the teacher keeps the one with the
            largest target-logit margin.
        seed: Seed of everything learned.
    """

    name = "dpd"
    fit_stages = ("teacher", "train")
    uses_latents = True
    uses_prototypes = True

    def __init__(
        self,
        preset: PresetName = "tiny",
        prediction: Prediction = "v_prediction",
        prompt: str = TEMPLATE,
        teacher: TeacherOptions = TeacherOptions(),
        training: DenoisingOptions = DenoisingOptions(),
        prototypes: PrototypeOptions = PrototypeOptions(),
        sampling: SamplingOptions = SamplingOptions(),
        candidates: Annotated[int, Field(ge=1)] = 4,
        seed: int = 0,
    ) -> None:
        self.preset, self.prediction, self.prompt = preset, prediction, prompt
        self.teacher, self.training, self.prototypes, self.sampling = teacher, training, prototypes, sampling
        self.candidates, self.seed = candidates, seed
        self.teacher_: LatentTeacher | None = None
        self.model_: DiffusionModel | None = None
        self.prototypes_: dict[int, Prototypes] = {}
        self.progress_ = True

    def fit_stage(self, stage: str, folder: Path | None, trainer: TrainerOptions | None = None) -> dict[str, Any]:
        """Train the teacher or the denoiser; see :meth:`Distiller.fit_stage`."""
        self.progress_ = trainer is None or trainer.progress
        if stage == "teacher":
            self.teacher_, figures = train_teacher(
                self._latents(), len(self.data_.classes), self.teacher, self.seed, folder, trainer
            )
            return figures
        prompts = class_prompts(self.data_.classes, self.prompt)
        size = self.data_.train[0]["image"].shape[-1]
        codec = self._latents().codec
        model = DiffusionModel.from_scratch(
            self.preset, codec, prompts, size, self.prediction, derived_seed(self.seed, 30)
        )
        self.model_ = train_denoiser(
            model, self._latents(), prompts, self.training, self.teacher_, self.seed, folder, trainer
        )
        taken = self.training.limited(len(self._latents().positions("train", views=True))).steps
        return {"steps": taken, "parameters": sum(p.numel() for p in model.unet.parameters())}

    def save_stage(self, stage: str, folder: Path) -> None:
        """Write the teacher, or the model in diffusers' format."""
        teacher, model = self.teacher_, self.model_
        if stage == "teacher" and teacher is not None:
            teacher.save(folder)
        elif stage == "train" and model is not None:
            model.save(folder)

    def load_stage(self, stage: str, folder: Path, trainer: TrainerOptions | None = None) -> None:
        """Read what :meth:`save_stage` wrote."""
        self.progress_ = trainer is None or trainer.progress
        device = resolve_device(trainer)
        if stage == "teacher":
            self.teacher_ = LatentTeacher.load(folder).to(device)
        else:
            self.model_ = DiffusionModel.load(folder).to(device)

    def latent_multiple(self) -> int:
        """The denoiser halves latents once between two of its resolutions."""
        return int(2 ** (len(PRESETS[self.preset].channels) - 1))

    def stage_options(self, stage: str) -> dict[str, Any]:
        """See :meth:`Distiller.stage_options`."""
        names = {
            "teacher": ("teacher", "seed"),
            "train": ("preset", "prediction", "prompt", "training", "seed"),
            "prototypes": ("prototypes", "seed"),
            "distill": ("prompt", "sampling", "candidates", "seed"),
        }[stage]
        return {name: getattr(self, name) for name in names}

    def find_prototypes(self, ipc: int) -> Prototypes:
        """Prototypes for so many images per class, found once."""
        if ipc not in self.prototypes_:
            check_class_sizes(self.fitted(), ipc)
            self.prototypes_[ipc] = find_prototypes(self._latents(), ipc, self.prototypes, self.seed)
        return self.prototypes_[ipc]

    def use_prototypes(self, ipc: int, table: Prototypes) -> None:
        """See :meth:`Distiller.use_prototypes`."""
        self.prototypes_[ipc] = table

    def distill(self, ipc: int, seed: int = 0) -> DistilledSet:
        """Draw candidates for each prototype and keep the best; see :meth:`Distiller.distill`."""
        check_class_sizes(self.fitted(), ipc)
        table = self.find_prototypes(ipc)
        latents, labels, scores = self._draw(table, seed)
        prompts = class_prompts(self.data_.classes, self.prompt)
        return DistilledSet(
            image=self._decode(latents),
            label=labels.numpy(),
            classes=self.data_.classes,
            bands=self.data_.bands,
            gsd=self.data_.gsd,
            manifest=self.manifest(ipc, seed) | {"prototypes": table.summary()},
            caption=[prompts[label] for label in labels],
            score=scores.numpy(),
        )

    def _draw(self, table: Prototypes, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Best candidate's latent, label and margin for each prototype."""
        if self.model_ is None or self.teacher_ is None:
            raise ModelError("distiller 'dpd' is not fitted; call fit(data, latents) first")
        repeated = torch.arange(len(table.label)).repeat_interleave(self.candidates)
        labels = torch.from_numpy(table.label)[repeated]
        prompts = class_prompts(self.data_.classes, self.prompt)
        drawn = sample(
            self.model_,
            [prompts[label] for label in labels],
            [derived_seed(self.seed, 31, seed, running) for running in range(len(repeated))],
            table.latent[repeated],
            self.sampling,
            self.progress_,
        )
        device = next(self.teacher_.parameters()).device
        margins = torch.cat([margin(self.teacher_(z.to(device)).cpu(), y) for z, y in _parts(drawn, labels)])
        best = margins.reshape(-1, self.candidates).argmax(dim=1) + torch.arange(len(table.label)) * self.candidates
        return drawn[best], labels[best], margins[best]

    def _decode(self, latents: torch.Tensor) -> np.ndarray[Any, Any]:
        codec = self._latents().codec
        decoded = [to_sensor(codec.decode(part), codec.bands) for part in latents.split(_DECODE_BATCH)]
        return np.concatenate(decoded)

    def _latents(self) -> LatentStore:
        if getattr(self, "latents_", None) is None:
            raise ModelError("distiller 'dpd' is not fitted; call fit(data, latents) first")
        assert self.latents_ is not None
        return self.latents_


def _parts(latents: torch.Tensor, labels: torch.Tensor) -> Any:
    return zip(latents.split(_DECODE_BATCH), labels.split(_DECODE_BATCH), strict=True)
