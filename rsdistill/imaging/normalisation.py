"""Normalisation of chips by statistics of each band; pixels without data count in none.

Codecs work in a range and go back to sensor units: values beyond a band's robust range are kept, not clipped,
so saturated pixels come back at the sensor's limit. Students, detectors and the audit take mean and deviation.
Nothing passes through 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.errors import BandError, DatasetError

_SAMPLE = 512
_PERCENTILES = (0.5, 99.5)


class BandNormalisation:
    """A dataclass whose fields are statistics, one value a band each."""

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists, for digests and JSON."""
        return {name: [float(value) for value in values] for name, values in vars(self).items()}

    def _columns(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The statistics in the order of the fields, to broadcast over images (n, B, H, W)."""
        return tuple(torch.as_tensor(v, device=device)[None, :, None, None] for v in vars(self).values())


@dataclass(frozen=True)
class RangeNormalisation(BandNormalisation):
    """Maps each band's ``low..high`` to -1..1; values beyond are kept, not clipped.

    Attributes:
        low: Sensor value that becomes -1, one a band.
        high: Sensor value that becomes 1, one a band.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(cls, images: NDArray[Any], bands: BandSet) -> RangeNormalisation:
        """Robust range of each band over some chips; 8-bit bands take their whole range.

        The whole range lets a stock diffusers pipeline, which knows no band statistics,
        show 8-bit imagery in its true colours.

        Args:
            images: Chips of shape (N, B, H, W) in sensor units.
            bands: Their bands.

        Raises:
            BandError: If a band holds no valid pixel at all.
        """
        lows, highs = [], []
        for position, band in enumerate(bands):
            plane = torch.from_numpy(images[:, position])
            values = plane[valid_pixels(plane, bands)].numpy().astype(np.float64)
            if not values.size:
                raise BandError(f"band '{band.name}' has no valid pixel in train; leave it out with data.bands")
            if bands.dtype == "uint8":
                lows.append(bands.valid_range[0])
                highs.append(bands.valid_range[1])
                continue
            low, high = np.percentile(values, _PERCENTILES)
            # A constant band (Sentinel-2's cirrus nearly is) still needs a range to divide by.
            spread = max(high - low, 1e-3 * (bands.valid_range[1] - bands.valid_range[0]))
            lows.append(float(low))
            highs.append(float(low + spread))
        return cls(tuple(lows), tuple(highs))

    def forward(self, images: torch.Tensor, bands: BandSet, fill: float = -1.0) -> torch.Tensor:
        """Sensor units (N, B, H, W) to normalised float32; pixels without data become ``fill``."""
        low, high = self._columns(images.device)
        normalised = (images.float() - low) / (high - low) * 2.0 - 1.0
        return torch.where(valid_pixels(images, bands), normalised, fill)

    def inverse(self, normalised: torch.Tensor) -> torch.Tensor:
        """Normalised (N, B, H, W) back to sensor units, float32."""
        low, high = self._columns(normalised.device)
        return (normalised + 1.0) / 2.0 * (high - low) + low


@dataclass(frozen=True)
class StandardNormalisation(BandNormalisation):
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
    def of(cls, images: torch.Tensor, bands: BandSet | None = None) -> StandardNormalisation:
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
        low, high, mean, std = self._columns(images.device)
        return torch.nan_to_num((images.clamp(low, high) - mean) / std)


def valid_pixels(images: torch.Tensor, bands: BandSet) -> torch.Tensor:
    """Which pixels hold data: finite, and not the set's nodata value. Bool, of the images' shape."""
    valid = torch.isfinite(images)
    return valid if bands.nodata is None else valid & (images != bands.nodata)


def sample_positions(count: int, seed: int) -> NDArray[np.int64]:
    """Up to 512 positions spread at random over a view, for statistics."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:_SAMPLE]).astype(np.int64)


def to_sensor(images: torch.Tensor, bands: BandSet) -> NDArray[Any]:
    """Round and clip float chips (N, B, H, W) to the sensor's type and valid range, clear of its nodata value."""
    low, high = bands.valid_range
    values = images.float().clamp(low, high).cpu().numpy()
    if np.issubdtype(np.dtype(bands.dtype), np.integer):
        values = np.rint(values)
        if bands.nodata is not None:
            # What was generated was measured: it moves to the next value within the range.
            values[values == bands.nodata] += 1.0 if bands.nodata < high else -1.0
    sensor: NDArray[Any] = values.astype(bands.dtype)
    return sensor
