"""Figures of merit: accuracy of one student, scores of one distilled set, coverage of a class.

Plain functions of numpy arrays. All accuracies and scores are fractions, never percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.errors import OptionError


@dataclass(frozen=True)
class Scores:
    """Accuracy of one student on one test split, as fractions.

    Attributes:
        oa: Overall accuracy: share of chips that are labelled rightly.
        aa: Average accuracy: mean over classes of the share that is labelled rightly.
        kappa: Cohen's kappa: agreement beyond what chance alone would give.
    """

    oa: float
    aa: float
    kappa: float

    @classmethod
    def of(cls, truth: NDArray[Any], predicted: NDArray[Any]) -> Scores:
        """Scores of predictions.

        Args:
            truth: Class positions of shape (n,).
            predicted: Class positions of shape (n,).

        Raises:
            OptionError: If the lengths differ or there is nothing to score.
        """
        matrix = confusion_matrix(truth, predicted)
        return cls(_overall(matrix), _average(matrix), _kappa(matrix))


def confusion_matrix(truth: NDArray[Any], predicted: NDArray[Any], classes: int | None = None) -> NDArray[np.int64]:
    """Count how often each class is taken for each other.

    Args:
        truth: Class positions of shape (n,).
        predicted: Class positions of shape (n,).
        classes: Number of classes; None for the largest position found plus one.

    Returns:
        Counts of shape (classes, classes): rows are the truth, columns the prediction.

    Raises:
        OptionError: If the lengths differ, there is nothing to count, or a position is out of range.
    """
    truth, predicted = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    if truth.ndim != 1 or truth.shape != predicted.shape or not truth.size:
        raise OptionError(
            f"accuracy needs one prediction a label: {truth.shape} labels and {predicted.shape} predictions do not pair"
        )
    largest = int(max(truth.max(), predicted.max()))
    size = largest + 1 if classes is None else classes
    if min(truth.min(), predicted.min()) < 0 or largest >= size:
        raise OptionError(f"class positions must lie between 0 and {size - 1}")
    return np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)


def overall_accuracy(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Share of chips labelled rightly; arguments and errors as of :func:`confusion_matrix`."""
    return _overall(confusion_matrix(truth, predicted))


def average_accuracy(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean over the classes that occur in ``truth`` of the share labelled rightly.

    Arguments and errors as of :func:`confusion_matrix`.
    """
    return _average(confusion_matrix(truth, predicted))


def cohen_kappa(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Agreement beyond chance: 1 is perfect, 0 is what the class frequencies alone would give.

    Where truth and prediction hold one and the same class only, kappa is 0 / 0; they agree, so 1 is
    returned. Arguments and errors as of :func:`confusion_matrix`.

    Source: Cohen, A coefficient of agreement for nominal scales, 1960.
    """
    return _kappa(confusion_matrix(truth, predicted))


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
    _check_weight("weight", weight)
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
    _check_weight("weight", weight)
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


def _overall(matrix: NDArray[np.int64]) -> float:
    return float(np.trace(matrix) / matrix.sum())


def _average(matrix: NDArray[np.int64]) -> float:
    occurring = matrix.sum(axis=1) > 0
    return float((np.diag(matrix)[occurring] / matrix.sum(axis=1)[occurring]).mean())


def _kappa(matrix: NDArray[np.int64]) -> float:
    total = float(matrix.sum())
    chance = float((matrix.sum(axis=0) / total) @ (matrix.sum(axis=1) / total))
    return 1.0 if chance >= 1.0 else (_overall(matrix) - chance) / (1.0 - chance)


def _normalised(value: float) -> float:
    return (math.exp(value) - math.exp(-1.0)) / (math.e - math.exp(-1.0))


def _check_weight(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise OptionError(f"{name} is {value}; it must lie between 0 and 1")


def _unit_rows(features: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1.0)
