"""What every detector of excluded classes has: options, figures, calibration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.bands import BandSet
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import PolicyError, SplitError
from rsdistill.imaging.pixels import blocks, dihedral_views, shrink
from rsdistill.utils.options import plain

FloatArray = NDArray[np.float64]
# From images (n, B, H, W) in sensor units, NaN where invalid, to logits (n, classes).
Classifier = Callable[[torch.Tensor], FloatArray]

_BATCH = 128
_LEAST_LIKELY = -50.0
# A factor of 4 sharper: more could not be learnt from some hundred chips, and would round probabilities to 1.
_LOG_TEMPERATURES = (-1.4, 3.0)
_LEAST_THRESHOLD = 0.05


@dataclass(frozen=True)
class ScreenOptions:
    """How generated tiles are screened for excluded classes.

    Attributes:
        network: What the detector looks through: ``imagenet`` (features of a network trained on ImageNet, for
            which rsdistill[offline] is needed), ``student`` (a small network trained from scratch, for any
            bands), or ``auto`` for the first where it is installed and the dataset has natural colour.
        false_alarms: Share of allowed validation chips that may be held back, over all detectors.
        attempts: Rounds of further candidates before the run gives up.
        views: Symmetries of the square that each tile is looked at in: 1, 2, 4 or 8.
        steps: Optimiser steps of the ``student``.
        size: Side in pixels that the ``student`` sees.
        clip: Folder or hub id of a CLIP model that is asked too, by the names of the classes; None asks none.
        seed: Seed of the detector.
    """

    network: Literal["auto", "imagenet", "student"] = "auto"
    false_alarms: Annotated[float, Field(gt=0, lt=0.5)] = 0.04
    attempts: Annotated[int, Field(ge=1)] = 5
    views: Literal[1, 2, 4, 8] = 4
    steps: Annotated[int, Field(ge=1)] = 600
    size: Annotated[int, Field(ge=8)] = 64
    clip: str | None = None
    seed: int = 0


NOTE = "A screen finds what its detectors know; it cannot prove that nothing of an excluded class is left."


@dataclass(frozen=True)
class DetectorFigures:
    """How well one detector tells excluded from allowed classes, on validation chips.

    Attributes:
        name: What the detector looks through.
        threshold: Probability of the excluded classes above which a tile is held back.
        temperature: What its logits are divided by, so that probabilities mean what they say.
        detected: Share of excluded validation chips above the threshold; None without any.
        false_alarms: Share of allowed validation chips above it.
        excluded: Number of excluded validation chips.
        allowed: Number of allowed ones.
    """

    name: str
    threshold: float
    temperature: float
    detected: float | None
    false_alarms: float
    excluded: int
    allowed: int


@dataclass(frozen=True)
class ScreenReport:
    """What the screen did to one distilled set.

    Attributes:
        detectors: The detectors that were asked; one of them is enough to hold a tile back.
        tiles: Number of tiles of the set.
        rounds: Rounds of further candidates that were needed.
        drawn: Number of tiles looked at, further candidates included.
        quarantined: Number of tiles held back.
        by_class: The same by key of the class that they were drawn for; classes without any are left out.
        scores: Largest score of each tile that was kept, relative to the threshold: below 1.
    """

    detectors: tuple[DetectorFigures, ...]
    tiles: int
    rounds: int
    drawn: int
    quarantined: int
    by_class: Mapping[str, int]
    scores: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """What the manifest of the set says."""
        values = self.to_dict()
        del values["scores"]
        return {**values, "note": NOTE}

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return dict(plain(self))


@dataclass(frozen=True, eq=False)
class Detector:
    """Says how likely an image shows one of the excluded classes.

    Attributes:
        classify: The classifier of all classes.
        bands: Bands of the images.
        excluded: Which of its classes are excluded, bool (classes,).
        views: Symmetries of the square that each image is looked at in.
        figures: Threshold, temperature, and how well it does on validation chips.
    """

    classify: Classifier
    bands: BandSet
    excluded: NDArray[np.bool_]
    views: int
    figures: DetectorFigures

    def scores(self, images: NDArray[np.generic]) -> FloatArray:
        """Total probability of the excluded classes, (n,), for images (n, B, H, W) in sensor units."""
        logits = viewed_logits(self.classify, images, self.bands, self.views)
        return excluded_probability(logits / self.figures.temperature, self.excluded)


def excluded_mask(data: SceneData, excluded: Collection[str]) -> NDArray[np.bool_]:
    """Which classes are excluded, bool (classes,); see :func:`train_detector` for the errors."""
    mask = np.zeros(len(data.classes), bool)
    mask[[data.class_index(key) for key in excluded]] = True
    if not mask.any() or mask.all():
        number = "no" if not mask.any() else "every"
        raise PolicyError(
            f"the policy excludes {number} class of dataset '{data.name}'; there is nothing to screen for"
        )
    present = np.bincount(data.train.labels, minlength=len(mask)) > 0
    if not present[mask].all():
        count = int((mask & ~present).sum())
        raise PolicyError(
            f"{count} of the excluded classes of dataset '{data.name}' have no train chip, so no detector can learn "
            f"them; choose a split that leaves some"
        )
    return mask


def calibrated(
    name: str, classify: Classifier, data: SceneData, excluded: NDArray[np.bool_], views: int, false_alarms: float
) -> Detector:
    """A classifier with temperature and threshold set on validation chips.

    The threshold is the smallest score that holds back at most a share ``false_alarms`` of the allowed chips, but
    never below 5 %: where a detector tells real chips apart without fail, generated tiles are still stranger.

    Raises:
        SplitError: If there are no allowed validation chips.

    Source: Guo et al., On calibration of modern neural networks, 2017.
    """
    labels = data.val.labels
    allowed = ~excluded[labels]
    if not allowed.any():
        raise SplitError(
            f"dataset '{data.name}' has no validation chips of allowed classes to set the screen's threshold on; "
            f"set data.val above 0"
        )
    logits = viewed_logits(classify, data.val, data.bands, views)
    temperature = best_temperature(logits, labels)
    scores = excluded_probability(logits / temperature, excluded)
    ordered = np.sort(scores[allowed])[::-1]
    threshold = max(_LEAST_THRESHOLD, float(ordered[int(false_alarms * len(ordered))]))
    found = scores > threshold
    figures = DetectorFigures(
        name=name,
        threshold=threshold,
        temperature=temperature,
        detected=None if allowed.all() else float(found[~allowed].mean()),
        false_alarms=float(found[allowed].mean()),
        excluded=int((~allowed).sum()),
        allowed=int(allowed.sum()),
    )
    return Detector(classify, data.bands, excluded, views, figures)


def viewed_logits(
    classify: Classifier, images: NDArray[np.generic] | SceneView, bands: BandSet, views: int
) -> FloatArray:
    """Logits (n, classes) of images (n, B, H, W), mean over symmetries of the square, read in blocks."""
    found = []
    for part in blocks(len(images), _BATCH):
        pixels = images.images(part) if isinstance(images, SceneView) else images[part]
        chips = shrink(pixels, bands, None)
        found.append(np.mean([classify(version) for version in islice(dihedral_views(chips), views)], axis=0))
    return np.concatenate(found)


def excluded_probability(logits: FloatArray, excluded: NDArray[np.bool_]) -> FloatArray:
    """Total probability of the excluded classes, (n,), of logits (n, classes)."""
    from scipy.special import softmax

    return np.asarray(softmax(logits, axis=1)[:, excluded].sum(axis=1), np.float64)


def best_temperature(logits: FloatArray, labels: NDArray[np.int64]) -> float:
    """What logits (n, classes) are best divided by: the smallest mean negative log-likelihood of the labels."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        likely = log_softmax(logits / np.exp(log_temperature), axis=1)
        # A class without train chips has no likelihood at all.
        return float(-np.maximum(likely[np.arange(len(labels)), labels], _LEAST_LIKELY).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))
