"""Structural similarity of two pictures, window by window.

Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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
