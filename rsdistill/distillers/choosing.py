"""Which of the candidates that a diffusion model drew become tiles, as a teacher sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.codecs.store import LatentStore
from rsdistill.diffusion.selection import (
    SelectionOptions,
    by_set,
    latent_copy_ratios,
    teacher_view,
    unit_features,
)
from rsdistill.diffusion.teacher import LatentTeacher, margin
from rsdistill.soft_labels import quantise


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen.

    Attributes:
        position: Position of each slot's tile among the candidates, int64 (slots,).
        latents: Latents of each slot's tile, (slots, C, h, w).
        margin: Target-logit margin of each tile, float32 (slots,).
        logits: The teacher's logits of each tile, (slots, classes).
        vetoed: Candidates that the veto set aside.
        conceded: Slots whose candidates were all vetoed, so that the least like a copy was taken.
    """

    position: NDArray[np.int64]
    latents: torch.Tensor
    margin: NDArray[np.float32]
    logits: torch.Tensor
    vetoed: int
    conceded: int

    def summary(self) -> dict[str, int]:
        """What the veto did, for the manifest."""
        return {"vetoed": self.vetoed, "conceded": self.conceded}

    def moved(self, latents: torch.Tensor, labels: NDArray[np.int64], teacher: LatentTeacher) -> Choice:
        """The same choice with other latents (slots, C, h, w) of these classes, as the teacher sees them now."""
        logits = teacher_view(teacher, latents)[0]
        return replace(self, latents=latents, margin=margin(logits, torch.from_numpy(labels)).numpy(), logits=logits)


@dataclass(frozen=True)
class SoftLabelOptions:
    """Soft labels of the tiles, from the teacher.

    Attributes:
        top: Classes kept of each tile, in eight bits each; 0 gives hard labels alone.
        temperature: Divides the logits: above 1 the labels become softer.
    """

    top: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(gt=0)] = 1.0

    def of(self, logits: torch.Tensor) -> NDArray[np.float32] | None:
        """Soft labels (n, classes) from logits (n, classes), rounded as they are kept; None where they are off.

        Raises:
            OptionError: If more classes are to be kept than there are.
        """
        if not self.top:
            return None
        return quantise((logits / self.temperature).softmax(1).double().numpy(), self.top).unpack()


def choose(
    drawn: torch.Tensor,
    labels: NDArray[np.int64],
    candidates: int,
    latents: LatentStore,
    teacher: LatentTeacher,
    options: SelectionOptions,
) -> Choice:
    """Choose one candidate for each slot.

    Args:
        drawn: Candidates, those of one slot after another, (slots x candidates, C, h, w).
        labels: Class position of each slot, int64 (slots,).
        candidates: Candidates of a slot.
        latents: Real latents that coverage and veto compare with.
        teacher: The latent teacher.
        options: How to choose.
    """
    logits, features = teacher_view(teacher, drawn)
    position, vetoed, conceded = np.empty(len(labels), np.int64), 0, 0
    for label in np.unique(labels).tolist():
        slots = np.flatnonzero(labels == label)
        these = (slots[:, None] * candidates + np.arange(candidates)).ravel()
        barred = np.zeros((len(slots), candidates), bool)
        if options.veto:
            ratios = latent_copy_ratios(drawn[these], _views_of(latents, label)).reshape(barred.shape)
            barred = ratios < options.veto
            lost = barred.all(axis=1)
            # A slot without any other gets the candidate that is least like a copy.
            barred[lost, ratios[lost].argmax(axis=1)] = False
            vetoed, conceded = vetoed + int(barred.sum()), conceded + int(lost.sum())
        if options.kind == "margin":
            worth = margin(logits[these], torch.full((len(these),), label)).double().numpy().reshape(barred.shape)
            chosen = np.where(barred, -np.inf, worth).argmax(axis=1)
        else:
            confidence = logits[these].softmax(1)[:, label].double().numpy().reshape(barred.shape)
            real = _features_of(latents, teacher, label)
            centre = real.mean(dim=0)
            tiles = unit_features(features[these], centre).reshape(*barred.shape, -1)
            chosen = by_set(np.where(barred, -np.inf, confidence), tiles, unit_features(real, centre), options)
        position[slots] = slots * candidates + chosen
    chosen_ones = torch.from_numpy(position)
    kept = logits[chosen_ones]
    return Choice(position, drawn[chosen_ones], margin(kept, torch.from_numpy(labels)).numpy(), kept, vetoed, conceded)


def _views_of(latents: LatentStore, label: int) -> torch.Tensor:
    """Every stored view of the train latents of a class, (chips, views, C, h, w)."""
    positions = latents.positions("train", views=True)
    positions = positions[latents.label[positions] == label]
    positions = positions[np.lexsort((latents.view[positions], latents.chip[positions]))]
    views = len(np.unique(latents.view[positions]))
    means: torch.Tensor = latents.read(positions).mean.unflatten(0, (-1, views))
    return means


def _features_of(latents: LatentStore, teacher: LatentTeacher, label: int) -> torch.Tensor:
    """Teacher's features of the train latents of a class, (chips, width)."""
    positions = latents.positions("train")
    return teacher_view(teacher, latents.read(positions[latents.label[positions] == label]).mean)[1]
