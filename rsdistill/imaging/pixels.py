"""Chips as the audit and the students see them: small copies in sensor units.

Only these small copies stay in memory; chips at their own size are read in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rsdistill.bands import BandSet

_BLOCK = 64


def shrink(images: NDArray[Any], bands: BandSet, size: int | None) -> torch.Tensor:
    """Copies of images in sensor units at another size, by the mean of the valid pixels of each cell.

    Args:
        images: Images of shape (n, B, H, W) in sensor units.
        bands: Their bands; pixels equal to ``bands.nodata`` are invalid.
        size: Side of the copies in pixels; None keeps the images' own size.

    Returns:
        Float32 tensor (n, B, size, size); NaN where a cell has no valid pixel.
    """
    pixels = torch.from_numpy(np.asarray(images, np.float32))
    if bands.nodata is not None:
        pixels = torch.where(pixels == bands.nodata, torch.nan, pixels)
    return pixels if size is None else resize(pixels, size)


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Bring images (n, B, H, W) to (n, B, size, size); cells without a valid pixel stay NaN.

    Smaller copies hold cell means, larger ones are interpolated linearly.
    """
    if images.shape[-2:] == (size, size):
        return images
    valid = torch.isfinite(images)
    if bool(valid.all()):
        return _interpolate(images, size)
    weight = _interpolate(valid.float(), size)
    total = _interpolate(torch.where(valid, images, 0.0), size)
    return torch.where(weight > 0, total / weight.clamp_min(1e-6), torch.nan)


def blocks(count: int, block: int = _BLOCK) -> Iterator[NDArray[np.int64]]:
    """Positions 0 to ``count`` - 1 in consecutive blocks."""
    for start in range(0, count, block):
        yield np.arange(start, min(start + block, count))


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` positions spread evenly over 0 to ``count`` - 1."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _interpolate(images: torch.Tensor, size: int) -> torch.Tensor:
    if min(images.shape[-2:]) >= size:
        return functional.interpolate(images, (size, size), mode="area")
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
