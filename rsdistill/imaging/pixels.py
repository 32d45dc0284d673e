"""Chips as the audit and the students see them: small copies in sensor units, their symmetries and random views.

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


# Largest shift as a share of the side, and spread of the brightness in standard deviations of a band.
_SHIFT = 1 / 8
_BRIGHTNESS = 0.2


def turned(images: torch.Tensor, turns: int, mirror: bool = False) -> torch.Tensor:
    """Square images (..., S, S) mirrored left to right where asked, then turned by quarters."""
    return torch.rot90(images.flip(-1) if mirror else images, turns, (-2, -1))


def dihedral(images: torch.Tensor, number: int) -> torch.Tensor:
    """One of the 8 turns and flips of images (..., S, S): ``number % 4`` quarter turns, mirrored after it from 4 on."""
    return turned(images, -number if number >= 4 else number, number >= 4)


def dihedral_views(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """All 8 of images (..., S, S), the first one unchanged: four turns, then those of the mirrored images."""
    return (turned(images, turns, mirror) for mirror in (False, True) for turns in range(4))


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip, turn by quarters, shift and brighten each image at random, all at once.

    Args:
        images: Normalised, of shape (n, B, H, W); quarter turns need H = W and are left out otherwise.
        generator: CPU generator of the draws.

    Returns:
        Images of the same shape; shifts fill the border by reflection.
    """
    count, _, height, width = images.shape
    down, right, transpose = torch.rand(3, count, generator=generator) < 0.5
    rows = _shifted(count, height, down, generator).to(images.device)
    columns = _shifted(count, width, right, generator).to(images.device)
    brightness = _BRIGHTNESS * torch.randn(count, 1, 1, 1, generator=generator).to(images.device)
    if height == width:
        images = torch.where(transpose.to(images.device)[:, None, None, None], images.transpose(2, 3), images)
    each = torch.arange(count, device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2) + brightness


def _shifted(count: int, side: int, flip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Source position (count, side) of every row or column after a random shift and a flip where asked."""
    reach = int(side * _SHIFT)
    shift = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    last = side - 1
    source = last - (last - (torch.arange(side) + shift).abs()).abs()
    return torch.where(flip[:, None], source.flip(1), source)
