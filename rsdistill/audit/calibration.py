"""From measurements to verdicts: how rare is what was measured among honest images?

Held-out real chips were never seen by the method, so what the detectors measure on them is what honest images
give. Each detector's measurements are brought to one scale, the rarity: -log10 of the share of honest images
that go as far. An image is judged by its largest rarity over all detectors, and the limit is set on just that
largest rarity, so that the share of honest images flagged holds for all detectors together, however they depend
on each other (Westfall and Young, Resampling-based multiple testing, 1993).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.audit.features import FeatureKind
from rsdistill.audit.membership import MembershipOptions
from rsdistill.audit.similarity_tests import FloatArray, Measurements
from rsdistill.errors import OptionError


@dataclass(frozen=True)
class AuditOptions:
    """How tiles are audited.

    Attributes:
        review: Share of honest images that may be flagged at all, over all detectors together.
        block: Share of honest images that may be blocked.
        protected: Protected classes may be flagged so many times as often.
        calibration: Held-out chips that the thresholds are set by, at most; spread over the classes.
        features: ``imagenet``, ``descriptors``, or ``auto`` for the first where it is at hand.
        membership: The membership attack, which trains many students; None leaves it out.

    Raises:
        OptionError: If ``block`` is above ``review``, or a value is out of range.
    """

    review: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    block: Annotated[float, Field(gt=0, le=0.1)] = 0.001
    protected: Annotated[float, Field(ge=1, le=20)] = 5.0
    calibration: Annotated[int, Field(ge=20)] = 600
    features: FeatureKind = "auto"
    membership: MembershipOptions | None = None

    def __post_init__(self) -> None:
        """Refuse shares in the wrong order; ranges are checked where options are parsed."""
        if not 0.0 < self.block <= self.review < 1.0:
            raise OptionError(
                f"option audit.block is {self.block} and audit.review {self.review}; both are shares of honest images, "
                "and the one blocked lies within the one flagged"
            )


# Images of a class that weigh as much as all classes together do for it: a class has few held-out chips, and what
# they do not know of their own tail would be taken for a tail.
_PRIOR = 50.0
# Share of honest images in the tail that the rarity is read off from.
_TAIL = 0.1
# Fewest images that a share is read off from.
_FEWEST = 3
# Distances below this are copies to the last rounding.
_LEAST_DISTANCE = 1e-3

DETECTORS = {
    "pixels": "distance to the nearest training chip in pixels",
    "copy_ratio": "distance to the nearest training chip over the mean distance to the 50 nearest",
    "blend": "how far the nearest training chip stands out from the next ones at 8 px",
    "patches": "how far windows of training chips stand out that fit the quadrants",
    "features": "cosine of features with the nearest training chip",
    "ssim": "structural similarity to the 5 most similar training chips",
}


def values_of(measured: Measurements) -> dict[str, FloatArray]:
    """What each detector reports, (n,) each."""
    return {
        "pixels": measured.distance,
        "copy_ratio": measured.copy_ratio,
        "blend": measured.blend,
        "patches": measured.patches,
        "features": measured.feature,
        "ssim": measured.ssim,
    }


def scores_of(measured: Measurements) -> dict[str, FloatArray]:
    """The same, so that larger is more suspicious and the tails are alike: distances by their logarithm."""
    scores = values_of(measured)
    for name in ("pixels", "copy_ratio"):
        scores[name] = -np.log(np.maximum(scores[name], _LEAST_DISTANCE))
    for name in ("features", "ssim"):
        scores[name] = np.arctanh(np.clip(scores[name], -0.9999, 0.9999))
    return scores


@dataclass(frozen=True)
class NullDistribution:
    """What a detector measures on honest images.

    Attributes:
        centre: Median of each class, drawn toward that of all classes where the class has few images.
        spread: Distance from the median to the 90th percentile of each class, drawn likewise.
        start: Where the tail begins, in spreads from the centre.
        step: How much further an image must go to be ten times as rare.
    """

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    start: float
    step: float

    @classmethod
    def fit(cls, scores: FloatArray, labels: NDArray[np.int64], classes: int) -> Self:
        """Fit to the scores of honest images.

        Args:
            scores: Shape (n,).
            labels: Their classes, (n,).
            classes: Number of classes.
        """
        centre = _shrunk(scores, labels, classes, np.median)
        rest = scores - centre[labels]
        spread = np.maximum(_shrunk(rest, labels, classes, lambda values: np.quantile(values, 1.0 - _TAIL)), 1e-6)
        standard = rest / spread[labels]
        start = float(np.quantile(standard, 1.0 - _TAIL))
        beyond = standard[standard > start] - start
        # An exponential tail: its mean excess is its scale.
        step = max(float(beyond.mean()) if len(beyond) else 1.0, 1e-6) * np.log(10.0)
        return cls(tuple(centre.tolist()), tuple(spread.tolist()), start, float(step))

    def rarity(self, scores: FloatArray, labels: NDArray[np.int64]) -> FloatArray:
        """-log10 of the share of honest images that go as far, (n,); 0 where that is nothing special."""
        centre, spread = np.asarray(self.centre)[labels], np.asarray(self.spread)[labels]
        beyond = (scores - centre) / spread - self.start
        return np.asarray(np.maximum(beyond / self.step - np.log10(_TAIL), 0.0))


@dataclass(frozen=True)
class Thresholds:
    """Rarities from which on an image is flagged.

    Attributes:
        review: From here on a person should look.
        block: From here on a tile is not to be exported.
        protected_review: The same for protected classes.
        protected_block: The same for protected classes.
    """

    review: float
    block: float
    protected_review: float
    protected_block: float

    def review_limits(self, protected: NDArray[np.bool_]) -> FloatArray:
        """Rarity from which each image is flagged at all."""
        return np.where(protected, self.protected_review, self.review)

    def verdicts(self, rarity: FloatArray, protected: NDArray[np.bool_]) -> list[str]:
        """``pass``, ``review`` or ``block`` of each image, by its largest rarity and whether its class is protected."""
        review = self.review_limits(protected)
        block = np.where(protected, self.protected_block, self.block)
        found = np.where(rarity >= block, "block", np.where(rarity >= review, "review", "pass"))
        return [str(verdict) for verdict in found]


@dataclass(frozen=True)
class Calibration:
    """Nulls of all detectors, and the limits set by them.

    Attributes:
        nulls: By detector.
        thresholds: The limits.
        images: Honest images that they were set by.
        measured: Median of what each detector measured on them.
    """

    nulls: Mapping[str, NullDistribution]
    thresholds: Thresholds
    images: int
    measured: Mapping[str, float]

    @classmethod
    def fit(
        cls,
        measured: Measurements,
        labels: NDArray[np.int64],
        classes: int,
        options: AuditOptions,
    ) -> Self:
        """Set limits by honest images.

        Args:
            measured: What the detectors measured on them.
            labels: Their classes, (n,).
            classes: Number of classes.
            options: Shares of them that may be flagged, over all detectors together.
        """
        nulls = {name: NullDistribution.fit(scores, labels, classes) for name, scores in scores_of(measured).items()}
        largest = np.max([nulls[n].rarity(s, labels) for n, s in scores_of(measured).items()], axis=0)
        shares = (options.review, options.block)
        limits = [rarity_limit(largest, share * more) for more in (1.0, options.protected) for share in shares]
        medians = {name: float(np.median(values)) for name, values in values_of(measured).items()}
        return cls(nulls, Thresholds(*limits), len(labels), medians)

    def rarities(self, measured: Measurements, labels: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Rarity of each image by detector."""
        return {name: self.nulls[name].rarity(scores, labels) for name, scores in scores_of(measured).items()}


def rarity_limit(rarity: FloatArray, share: float) -> float:
    """Rarity that at most this share of honest images reaches.

    Down to a share of three images it is read off; below that it is drawn out at the pace, at least one unit
    a power of ten, at which the images themselves thin out from their median on. One or two odd images,
    such as chips that overlap training chips, so move it little.
    """
    ordered = np.sort(rarity)[::-1]
    known = min(max(share, _FEWEST / (len(rarity) + 1)), 0.5)
    # Just above the first image that must pass.
    read = float(np.nextafter(ordered[min(int(known * (len(rarity) + 1)), len(rarity) - 1)], np.inf))
    if known <= share:
        return read
    pace = (read - float(np.median(rarity))) / max(math.log10(0.5 / known), 0.1)
    return read + max(pace, 1.0) * math.log10(known / share)


def _shrunk(values: FloatArray, labels: NDArray[np.int64], classes: int, statistic: Any) -> FloatArray:
    """A statistic of each class, drawn toward that of all by as much as fifty images weigh, (classes,)."""
    whole = float(statistic(values))
    result = np.full(classes, whole)
    for label in np.unique(labels):
        own = values[labels == label]
        result[label] = (len(own) * float(statistic(own)) + _PRIOR * whole) / (len(own) + _PRIOR)
    return result
