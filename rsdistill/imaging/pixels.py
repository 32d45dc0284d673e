"""Chips as the audit and the students see them: small copies in sensor units, and one normalisation.

Only these small copies stay in memory; chips at their own size are read in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rsdistill.bands import BandSet
from rsdistill.errors import DatasetError

_BLOCK = 64


@dataclass(frozen=True)
class Normalisation:
    """Robust normalisation of each band by statistics of real training chips.

    Values are cut to the range that holds 99.8 % of the real ones, so that neither a dead pixel nor a
    wild generated value rules a distance, then brought to mean 0 and standard deviation 1. Invalid
    pixels become 0, the mean.

    Attributes:
        low: Smallest value kept, of shape (B,), sensor units.
        high: Largest value kept, of shape (B,), sensor units.
        mean: Mean of the cut values, of shape (B,), sensor units.
        std: Standard deviation of the cut values, of shape (B,), sensor units.
    """

    low: torch.Tensor
    high: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, images: torch.Tensor, bands: BandSet | None = None) -> Normalisation:
        """Take the statistics of images (n, B, H, W) in sensor units; NaN marks invalid pixels.

        Args:
            images: The images.
            bands: Their bands, which messages then name.

        Raises:
            DatasetError: If a band has no valid pixel at all.
        """
        planes = images.movedim(1, 0).flatten(1).double().numpy()
        empty = np.flatnonzero(~np.isfinite(planes).any(axis=1))
        if empty.size:
            name = f"'{bands.names[empty[0]]}'" if bands is not None else f"number {empty[0]}"
            raise DatasetError(f"band {name} has no valid pixel in the training chips; leave it out with data.bands")
        low, high = np.nanpercentile(planes, [0.1, 99.9], axis=1)
        cut = np.clip(planes, low[:, None], high[:, None])
        std = np.nanstd(cut, axis=1)
        # A band that never varies carries nothing: it becomes 0 everywhere.
        parts = (low, high, np.nanmean(cut, axis=1), np.where(std > 0, std, 1.0))
        return cls(*(torch.from_numpy(np.asarray(part, np.float32)) for part in parts))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images (n, B, H, W) in sensor units, on their own device."""
        low, high, mean, std = (
            part.to(images.device)[None, :, None, None] for part in (self.low, self.high, self.mean, self.std)
        )
        return torch.nan_to_num((images.clamp(low, high) - mean) / std)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists, for digests and JSON."""
        return {name: getattr(self, name).tolist() for name in ("low", "high", "mean", "std")}


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
