"""How alike images are: structural similarity, angles between spectra, and copies told from neighbours by distance."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

FloatArray = NDArray[np.float64]

# Side of the windows of the structural similarity: a Gaussian cut at 5 pixels. The paper's constants.
WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03
# Chips that a copy ratio takes as the surroundings of an image.
NEIGHBOURS = 50


class Structure:
    """Planes prepared for SSIM: local means and squares are computed once a plane, not once a pair.

    Args:
        grey: Values of shape (..., H, W) with sides of 11 or more.
    """

    def __init__(self, grey: torch.Tensor) -> None:
        self.grey = grey
        self.mean = _blurred(grey)
        self.square = _blurred(grey.square())

    def at(self, index: tuple[torch.Tensor, ...] | slice) -> Structure:
        """Some of the planes."""
        chosen = object.__new__(Structure)
        chosen.grey, chosen.mean, chosen.square = self.grey[index], self.mean[index], self.square[index]
        return chosen


def ssim_map(one: Structure, other: Structure, peak: float = 1.0) -> torch.Tensor:
    """Structural similarity of each window that lies inside planes that match or broadcast, (..., H - 10, W - 10).

    Args:
        one: Planes.
        other: Planes.
        peak: Range of the signal.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
    """
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    product = _blurred(one.grey * other.grey)
    means = one.mean * other.mean
    luminance = (2.0 * means + c1) / (one.mean.square() + other.mean.square() + c1)
    variances = one.square - one.mean.square() + other.square - other.mean.square()
    structure = (2.0 * (product - means) + c2) / (variances + c2)
    return luminance * structure


def ssim(one: Structure, other: Structure) -> torch.Tensor:
    """Mean of :func:`ssim_map` over the windows, for values from 0 to 1, (...)."""
    return ssim_map(one, other).mean((-2, -1))


def whole_windows(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each window that lies inside a picture is valid throughout, (B, H, W) to (B, H - 10, W - 10)."""
    missing = functional.max_pool2d(torch.from_numpy(~valid).float(), WINDOW, stride=1)
    return np.asarray(missing.numpy() == 0.0)


def _blurred(planes: torch.Tensor) -> torch.Tensor:
    """Gaussian means over the windows that lie inside, (..., H - 10, W - 10)."""
    height, width = planes.shape[-2:]
    return _kernel(height, planes.dtype) @ planes @ _kernel(width, planes.dtype).T


def _kernel(size: int, dtype: torch.dtype) -> torch.Tensor:
    """The Gaussian as a matrix (S - 10, S): a row a window."""
    offsets = torch.arange(WINDOW, dtype=dtype) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2.0 * _SIGMA**2))
    rows = size - WINDOW + 1
    matrix = torch.zeros(rows, size, dtype=dtype)
    for row in range(rows):
        matrix[row, row : row + WINDOW] = weights / weights.sum()
    return matrix


def spectral_angles(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Angles in radians between spectra (..., B), as spectra (...).

    Twice the arctangent of |u − v| / |u + v| (u, v of unit length) equals the arccosine of u·v, but
    its gradient is finite where the spectra agree. A spectrum of zeros lies at a right angle to every
    other, and at 0 from another one of zeros.
    Source: Kruse et al., The spectral image processing system (SIPS), 1993.
    """
    ours, theirs = functional.normalize(first, dim=-1), functional.normalize(second, dim=-1)
    apart, along = (torch.linalg.vector_norm(v, dim=-1) for v in (ours - theirs, ours + theirs))
    return 2.0 * torch.atan2(apart, along)


def copy_ratios(distances: FloatArray) -> FloatArray:
    """How much nearer images are to one chip than to the chips around it.

    Args:
        distances: Of images to chips, (n, m); infinite ones count as missing.

    Returns:
        Smallest distance over the mean of the 50 smallest, (n,); 0 where even the mean is 0: all are copies.

    Source: Carlini et al., Extracting training data from diffusion models, 2023.
    """
    ordered = np.sort(distances, axis=1)[:, :NEIGHBOURS]
    around = mean_of_finite(ordered)
    return np.divide(ordered[:, 0], around, out=np.zeros(len(ordered)), where=around > 0)


def mean_of_finite(rows: FloatArray) -> FloatArray:
    """Mean of what is finite in each row, 0 where nothing is."""
    found = np.isfinite(rows)
    return np.asarray(np.where(found, rows, 0.0).sum(1) / found.sum(1).clip(1))
