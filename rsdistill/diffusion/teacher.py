"""The latent teacher: a classifier of latents that scores and guides what is generated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import lightning
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rsdistill.codecs.store import LatentBatch, LatentStore
from rsdistill.errors import ArtifactError
from rsdistill.training.trainer import StepBatches, TrainerOptions, derived_seed, fit, resolve_device, step_generator

_GROUPS = 8
_DESCRIPTION, _WEIGHTS = "teacher.json", "teacher.safetensors"


@dataclass(frozen=True)
class ConsistencyOptions:
    """The classification-consistency loss ``λ·w(t)·L_cls(f(ẑ₀), y)`` with a frozen teacher f.

    Attributes:
        weight: λ; 0 turns the loss off.
        target: ``label`` for cross-entropy to y, ``teacher`` for KL from f(z₀) to f(ẑ₀).
        min_alpha_bar: w(t) is ᾱ_t where that is at least this, else 0: at high noise ẑ₀ says nothing.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    target: Literal["label", "teacher"] = "label"
    min_alpha_bar: Annotated[float, Field(ge=0, le=1)] = 0.5


@dataclass(frozen=True)
class TeacherOptions:
    """How the latent teacher is built and trained.

    Attributes:
        width: Channels of its residual blocks, a multiple of 8.
        blocks: Residual blocks.
        steps: Optimiser steps.
        batch: Latents a step.
        lr: Peak learning rate.
        noise: Largest standard deviation of the noise added to latents, so that the teacher
            also understands the blurred estimates of a diffusion model.
    """

    width: Annotated[int, Field(ge=8, multiple_of=8)] = 128
    blocks: Annotated[int, Field(ge=1)] = 3
    steps: Annotated[int, Field(ge=1)] = 600
    batch: Annotated[int, Field(ge=1)] = 128
    lr: Annotated[float, Field(gt=0)] = 1e-3
    noise: Annotated[float, Field(ge=0)] = 0.5


class LatentTeacher(nn.Module):
    """A small residual CNN on latents.

    Args:
        channels: Channels of the latents.
        classes: Number of classes.
        width: Channels of the blocks.
        blocks: Number of blocks.
    """

    def __init__(self, channels: int, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.shape = {"channels": channels, "classes": classes, "width": width, "blocks": blocks}
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, classes)

    def features(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, h, w) to the features (N, width) that the logits are made of."""
        hidden = self.stem(latents)
        for block in self.blocks:
            hidden = block(hidden)
        pooled: torch.Tensor = hidden.mean((2, 3))
        return pooled

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, h, w) to logits (N, classes)."""
        logits: torch.Tensor = self.head(self.features(latents))
        return logits

    def save(self, folder: str | Path) -> None:
        """Write weights and shape to a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / _WEIGHTS)
        (folder / _DESCRIPTION).write_text(json.dumps(self.shape), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> LatentTeacher:
        """Read a teacher that :meth:`save` wrote.

        Raises:
            ArtifactError: If the folder holds none, or it cannot be read.
        """
        folder = Path(folder)
        try:
            teacher = cls(**json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8")))
            teacher.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"latent teacher in {folder} cannot be read ({error}); train it again") from error
        return teacher.eval().requires_grad_(False)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Target-logit margin ``logit_y − max_{j≠y} logit_j`` of each sample: (N, K) and (N,) to (N,)."""
    target = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return target - others.max(dim=1).values


def train_teacher(
    latents: LatentStore,
    classes: int,
    options: TeacherOptions,
    seed: int = 0,
    folder: str | Path | None = None,
    trainer: TrainerOptions | None = None,
) -> tuple[LatentTeacher, dict[str, float]]:
    """Train a teacher on the train latents and measure it on the validation latents.

    Args:
        latents: The latent store.
        classes: Number of classes.
        options: Shape and training of the teacher.
        seed: Seed of weights, order and noise.
        folder: Where checkpoints go; None keeps none.
        trainer: Devices and the like.

    Returns:
        The teacher, and its accuracies: ``train_oa`` and, where there is a validation split, ``val_oa`` and
        ``val_oa_noise_S`` under noise of standard deviation S, up to what it was trained with.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, 10))
        teacher = LatentTeacher(latents.codec.latent_channels, classes, options.width, options.blocks)
    train = latents.positions("train", views=True)
    batches = StepBatches(latents.reader(train), len(train), options.batch, derived_seed(seed, 11))
    fit(_Training(teacher, options, seed), batches, options.steps, folder, trainer, label="teacher")
    teacher.eval().requires_grad_(False).to(resolve_device(trainer))
    figures = {"train_oa": _accuracy(teacher, latents, "train")}
    if len(latents.positions("val")):
        figures["val_oa"] = _accuracy(teacher, latents, "val")
        for level in (options.noise / 2, options.noise) if options.noise else ():
            figures[f"val_oa_noise_{level:.2f}"] = _accuracy(teacher, latents, "val", level, seed)
    return teacher, figures


class _Block(nn.Module):
    """Two 3x3 convolutions with normalisation before each, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = hidden + self.layers(hidden)
        return added


class _Training(lightning.LightningModule):
    """Cross-entropy on sampled, noise-augmented latents."""

    def __init__(self, teacher: LatentTeacher, options: TeacherOptions, seed: int) -> None:
        super().__init__()
        self.teacher, self.options, self.seed = teacher, options, seed

    def training_step(self, batch: LatentBatch, _: int) -> torch.Tensor:
        generator = step_generator(self.seed, 12, self.global_step)
        noise, extra = torch.randn((2, *batch.mean.shape), generator=generator).to(batch.mean)
        level = self.options.noise * torch.rand((len(batch.mean), 1, 1, 1), generator=generator).to(batch.mean)
        sampled = batch.mean + torch.exp(0.5 * batch.logvar) * noise + level * extra
        loss = F.cross_entropy(self.teacher(sampled), batch.label)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(self.teacher.parameters(), self.options.lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.options.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def _accuracy(teacher: LatentTeacher, latents: LatentStore, split: str, noise: float = 0.0, seed: int = 0) -> float:
    positions = latents.positions(split)
    device = next(teacher.parameters()).device
    generator, right = step_generator(seed, 13), 0
    for start in range(0, len(positions), 512):
        batch = latents.read(positions[start : start + 512])
        shown = batch.mean + noise * torch.randn(batch.mean.shape, generator=generator)
        right += int((teacher(shown.to(device)).argmax(1).cpu() == batch.label).sum())
    return right / len(positions)


class Judgement(NamedTuple):
    """How the teacher classifies some clean estimates.

    Attributes:
        loss: Mean of ``w(t)·L_cls`` over all samples, ().
        right: How many of those it classified it gives their own class, ().
        seen: How many it classified; those past the gate of the loss.
    """

    loss: torch.Tensor
    right: torch.Tensor
    seen: int


def judge(
    teacher: LatentTeacher,
    estimate: torch.Tensor,
    clean: torch.Tensor,
    label: torch.Tensor,
    alpha_bar: torch.Tensor,
    options: ConsistencyOptions,
) -> Judgement:
    """The consistency loss, and how often the teacher is right.

    Args:
        teacher: Frozen classifier f.
        estimate: Clean estimates ẑ₀, (n, C, h, w).
        clean: Clean latents z₀, (n, C, h, w).
        label: Class positions, int64 (n,).
        alpha_bar: ᾱ_t, (n,).
        options: Target and gate.
    """
    teacher = teacher.to(estimate.device)
    # Where the gate is shut the loss is 0, and the teacher is not needed.
    seen = torch.nonzero(alpha_bar >= options.min_alpha_bar).flatten()
    if not len(seen):
        return Judgement(0.0 * estimate.sum(), torch.zeros((), device=estimate.device), 0)
    logits = teacher(estimate[seen])
    if options.target == "label":
        loss = F.cross_entropy(logits, label[seen], reduction="none")
    else:
        with torch.no_grad():
            wanted = teacher(clean[seen]).log_softmax(1)
        loss = F.kl_div(logits.log_softmax(1), wanted, log_target=True, reduction="none").sum(1)
    right = (logits.argmax(1) == label[seen]).sum()
    return Judgement((alpha_bar[seen] * loss).sum() / len(alpha_bar), right, len(seen))
