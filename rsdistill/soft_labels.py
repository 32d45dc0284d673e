"""Soft labels as they are kept: the few likeliest classes, with weights of eight bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsdistill.errors import OptionError

LEVELS = 255


@dataclass(frozen=True, eq=False)
class PackedLabels:
    """Soft labels without their zeros.

    Attributes:
        index: Classes kept of each sample, (n, top), ``uint8`` or ``uint16``.
        weight: Their weights in 255ths, ``uint8`` (n, top); each row sums to 255.
        classes: Number of classes.
    """

    index: NDArray[np.unsignedinteger]
    weight: NDArray[np.uint8]
    classes: int

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return int(self.index.nbytes + self.weight.nbytes)

    def unpack(self) -> NDArray[np.float32]:
        """The same as probabilities of all classes, float32 (n, classes)."""
        dense = np.zeros((len(self.index), self.classes), np.float32)
        np.put_along_axis(dense, self.index.astype(np.int64), self.weight.astype(np.float32) / LEVELS, axis=1)
        return dense


def quantise(probabilities: NDArray[np.floating], top: int) -> PackedLabels:
    """Keep the likeliest classes of each sample and round their shares to 255ths.

    Shares are renormalised over the classes kept; what rounding down leaves over goes to the largest remainders
    (Hamilton's method), so that every row still sums to one.

    Args:
        probabilities: Of each class, (n, classes), rows summing to about one.
        top: Classes kept of each sample.

    Raises:
        OptionError: If ``top`` is no number of classes, or the probabilities are not.
    """
    probabilities = np.asarray(probabilities, np.float64)
    classes = probabilities.shape[1]
    if not 1 <= top <= classes:
        raise OptionError(f"soft_labels.top is {top}; keep between 1 and {classes} classes")
    if not np.isfinite(probabilities).all() or (probabilities < 0).any() or (probabilities.sum(1) <= 0).any():
        raise OptionError("soft labels must be probabilities: finite, not negative, not all zero")
    index = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    kept = np.take_along_axis(probabilities, index, axis=1)
    exact = kept / kept.sum(axis=1, keepdims=True) * LEVELS
    weight = np.floor(exact)
    left = (LEVELS - weight.sum(axis=1)).astype(np.int64)
    order = np.argsort(-(exact - weight), axis=1, kind="stable")
    np.put_along_axis(weight, order, np.take_along_axis(weight, order, 1) + (np.arange(top) < left[:, None]), 1)
    smallest = np.uint8 if classes <= np.iinfo(np.uint8).max + 1 else np.uint16
    return PackedLabels(index.astype(smallest), weight.astype(np.uint8), classes)


def pack(dense: NDArray[np.float32]) -> PackedLabels | None:
    """Pack soft labels (n, classes) that :func:`quantise` rounded; None for any others, which packing would change."""
    whole = np.rint(np.asarray(dense, np.float64) * LEVELS)
    if not len(dense) or (whole < 0).any() or (whole.sum(axis=1) != LEVELS).any():
        return None
    packed = quantise(whole, int((whole > 0).sum(axis=1).max()))
    return packed if np.array_equal(packed.unpack(), dense) else None


def nbytes(dense: NDArray[np.float32]) -> int:
    """Bytes that soft labels (n, classes) take in a file."""
    packed = pack(dense)
    return int(dense.nbytes if packed is None else packed.nbytes)
