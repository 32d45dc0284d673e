"""Structural similarity of small grey copies, of many pairs at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, minimum_filter

# The paper's window, a Gaussian cut at 5 pixels, and its constants.
_SIGMA, _RADIUS = 1.5, 5
_K1, _K2 = 0.01, 0.03
WINDOW = 2 * _RADIUS + 1


def similarity(first: NDArray[np.float64], second: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """Structural similarity of each window that lies inside a picture.

    Args:
        first: Planes of shape (B, H, W), at least 11 pixels a side.
        second: Planes of the same shape.
        peak: Range of the signal.

    Returns:
        Similarity, at most 1, of shape (B, H - 10, W - 10).
    """
    mean_first, mean_second = _smooth(first), _smooth(second)
    variances = _smooth(first**2) - mean_first**2 + _smooth(second**2) - mean_second**2
    covariance = _smooth(first * second) - mean_first * mean_second
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    luminance = (2 * mean_first * mean_second + c1) / (mean_first**2 + mean_second**2 + c1)
    return np.asarray(luminance * (2 * covariance + c2) / (variances + c2))


def whole_windows(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each window that lies inside a picture is valid throughout, (B, H, W) to (B, H - 10, W - 10)."""
    return np.asarray(_inside(minimum_filter(valid, (1, WINDOW, WINDOW))))


def _smooth(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(_inside(gaussian_filter(planes, (0, _SIGMA, _SIGMA), radius=(0, _RADIUS, _RADIUS))))


def _inside(planes: NDArray[Any]) -> NDArray[Any]:
    return planes[:, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


# Window of 11 x 11 pixels and constants of the paper, for values from 0 to 1.
_WINDOW, _GREY_SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


class Structure:
    """Grey images prepared for SSIM: local means and squares are computed once an image, not once a pair.

    Args:
        grey: Values from 0 to 1, shape (..., S, S) with S of 11 or more.
    """

    def __init__(self, grey: torch.Tensor) -> None:
        self.grey = grey
        self.mean = _blurred(grey)
        self.square = _blurred(grey.square())

    def at(self, index: tuple[torch.Tensor, ...] | slice) -> Structure:
        """Some of the images."""
        chosen = object.__new__(Structure)
        chosen.grey, chosen.mean, chosen.square = self.grey[index], self.mean[index], self.square[index]
        return chosen


def ssim(one: Structure, other: Structure) -> torch.Tensor:
    """Mean structural similarity of images that match or broadcast, (...).

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
    """
    product = _blurred(one.grey * other.grey)
    means = one.mean * other.mean
    luminance = (2.0 * means + _C1) / (one.mean.square() + other.mean.square() + _C1)
    variances = one.square - one.mean.square() + other.square - other.mean.square()
    structure = (2.0 * (product - means) + _C2) / (variances + _C2)
    return (luminance * structure).mean((-2, -1))


def _blurred(images: torch.Tensor) -> torch.Tensor:
    """Gaussian means over the windows that lie inside, (..., S - 10, S - 10)."""
    kernel = _kernel(images.shape[-1])
    return kernel @ images @ kernel.T


def _kernel(size: int) -> torch.Tensor:
    """The Gaussian as a matrix (S - 10, S): a row a window."""
    offsets = torch.arange(_WINDOW) - _WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2.0 * _GREY_SIGMA**2))
    rows = size - _WINDOW + 1
    matrix = torch.zeros(rows, size)
    for row in range(rows):
        matrix[row, row : row + _WINDOW] = weights / weights.sum()
    return matrix
