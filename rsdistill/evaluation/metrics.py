"""Figures of merit: accuracy of one student, scores of one distilled set, coverage of a class.

Plain functions of numpy arrays. All accuracies and scores are fractions, never percent.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.errors import OptionError
from rsdistill.registry import Registry

Metric = Callable[[NDArray[np.int64], NDArray[np.int64], int], float]
"""Called as ``metric(labels, predictions, classes)`` with class positions of shape (n,); gives one figure."""

METRICS: Registry[float] = Registry("metric", "rsdistill.evaluation.metrics")
ACCURACIES = ("oa", "aa", "kappa")


@dataclass(frozen=True)
class Scores:
    """Accuracy of one student on one test split, as fractions.

    Attributes:
        oa: Overall accuracy: share of chips that are labelled rightly.
        aa: Average accuracy: mean over classes of the share that is labelled rightly.
        kappa: Cohen's kappa: agreement beyond what chance alone would give.
        extra: Further metrics by name.
    """

    oa: float
    aa: float
    kappa: float
    extra: Mapping[str, float] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls, truth: NDArray[Any], predicted: NDArray[Any], metrics: Sequence[str] = (), classes: int | None = None
    ) -> Scores:
        """Scores of predictions.

        Args:
            truth: Class positions of shape (n,).
            predicted: Class positions of shape (n,).
            metrics: Names of further metrics; the three above are always computed.
            classes: Number of classes; None for the largest position found plus one.

        Raises:
            OptionError: If the lengths differ, there is nothing to score, or a metric gives no number.
            UnknownNameError: If a metric is unknown.
        """
        truth, predicted, classes = _paired(truth, predicted, classes)
        three = {name: _measure(name, truth, predicted, classes) for name in ACCURACIES}
        extra = {name: _measure(name, truth, predicted, classes) for name in further_metrics(metrics)}
        return cls(**three, extra=extra)


def further_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The metrics besides OA, AA and kappa, each once, in the order given.

    Raises:
        UnknownNameError: If a metric is unknown.
    """
    return tuple(METRICS.get(name).name for name in dict.fromkeys(names) if name not in ACCURACIES)


@METRICS.register("oa", summary="overall accuracy: share of chips labelled rightly")
def _oa(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


@METRICS.register("aa", summary="average accuracy: mean over the classes of the share labelled rightly")
def _aa(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> float:
    from sklearn.metrics import balanced_accuracy_score

    with warnings.catch_warnings():
        # A prediction of a class that no label has is a plain mistake here.
        warnings.simplefilter("ignore", UserWarning)
        return float(balanced_accuracy_score(labels, predictions))


@METRICS.register("kappa", summary="Cohen's kappa: agreement beyond chance", source="Cohen 1960")
def _kappa(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> float:
    from sklearn.metrics import cohen_kappa_score

    if labels.min() == labels.max() and np.array_equal(labels, predictions):
        return 1.0  # 0 / 0 in the formula
    return float(cohen_kappa_score(labels, predictions))


def hlr(full_hard: float, distilled_hard: float) -> float:
    """Hard label recovery: accuracy lost against training on all real data, both with hard labels.

    Lower is better. Source: Li et al., DD-Ranking, 2025.
    """
    return full_hard - distilled_hard


def ior(distilled: float, random: float) -> float:
    """Improvement over random real chips of the same number, trained by the same recipe.

    Higher is better. Source: Li et al., DD-Ranking, 2025.
    """
    return distilled - random


def alpha_score(improvement: float, loss: float, weight: float = 0.5) -> float:
    """Weigh the improvement over random against the loss against full data.

    Args:
        improvement: From :func:`ior`.
        loss: From :func:`hlr`.
        weight: Weight of the improvement, between 0 and 1.

    Raises:
        OptionError: If the weight is out of range.
    """
    _check_weight(weight)
    return weight * improvement - (1.0 - weight) * loss


def lrs(alpha: float) -> float:
    """Label-robust score: ``alpha`` brought from -1..1 to 0..1 by an exponential.

    Source: Li et al., DD-Ranking, 2025.
    """
    return _normalised(alpha)


def ars(
    distilled_augmented: float,
    random_augmented: float,
    distilled_plain: float,
    random_plain: float,
    weight: float = 0.5,
) -> float:
    """Augmentation-robust score: improvement over random, with and without augmentation.

    Args:
        distilled_augmented: Accuracy of the distilled set, students trained with augmentation.
        random_augmented: The same of random real chips.
        distilled_plain: Accuracy of the distilled set, students trained without augmentation.
        random_plain: The same of random real chips.
        weight: Weight of the augmented part, between 0 and 1.

    Raises:
        OptionError: If the weight is out of range.

    Source: Li et al., DD-Ranking, 2025.
    """
    _check_weight(weight)
    augmented, plain = distilled_augmented - random_augmented, distilled_plain - random_plain
    return _normalised(weight * augmented + (1.0 - weight) * plain)


def coverage(
    real: NDArray[Any], real_labels: NDArray[Any], distilled: NDArray[Any], distilled_labels: NDArray[Any]
) -> float:
    """Intra-class coverage: how near each real image has a distilled image of its class.

    Args:
        real: Features of the real images, shape (n, d).
        real_labels: Their class positions, shape (n,).
        distilled: Features of the distilled images, shape (m, d).
        distilled_labels: Their class positions, shape (m,).

    Returns:
        Mean over the real images of the largest cosine similarity to a distilled image of the class;
        an image whose class has no distilled image counts 0.

    Raises:
        OptionError: If the shapes do not fit or there is no real image.
    """
    real, distilled = np.asarray(real, np.float64), np.asarray(distilled, np.float64)
    real_labels, distilled_labels = np.asarray(real_labels), np.asarray(distilled_labels)
    fits = real.ndim == distilled.ndim == 2 and real.shape[1] == distilled.shape[1]
    if not fits or len(real) != len(real_labels) or len(distilled) != len(distilled_labels) or not len(real):
        raise OptionError(
            f"coverage needs features (n, d) with a label each: real {real.shape} with {len(real_labels)} labels, "
            f"distilled {distilled.shape} with {len(distilled_labels)} labels"
        )
    real, distilled = _unit_rows(real), _unit_rows(distilled)
    best = np.zeros(len(real))
    for label in np.unique(distilled_labels):
        members = np.flatnonzero(real_labels == label)
        best[members] = (real[members] @ distilled[distilled_labels == label].T).max(axis=1)
    return float(best.mean())


def _paired(
    truth: NDArray[Any], predicted: NDArray[Any], classes: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Labels and predictions as int64 and the number of classes, once they fit each other."""
    truth, predicted = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    if truth.ndim != 1 or truth.shape != predicted.shape or not truth.size:
        raise OptionError(
            f"accuracy needs one prediction a label: {truth.shape} labels and {predicted.shape} predictions do not pair"
        )
    largest = int(max(truth.max(), predicted.max()))
    size = largest + 1 if classes is None else classes
    if min(truth.min(), predicted.min()) < 0 or largest >= size:
        raise OptionError(f"class positions must lie between 0 and {size - 1}")
    return truth, predicted, size


def _measure(name: str, truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> float:
    value: Any = METRICS.get(name).factory(truth, predicted, classes)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(f"metric '{name}' gave {value!r}, not a finite number; mend it or leave it out")
    return number


def _normalised(value: float) -> float:
    return (math.exp(value) - math.exp(-1.0)) / (math.e - math.exp(-1.0))


def _check_weight(weight: float) -> None:
    if not 0.0 <= weight <= 1.0:
        raise OptionError(f"weight is {weight}; it must lie between 0 and 1")


def _unit_rows(features: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1.0)
