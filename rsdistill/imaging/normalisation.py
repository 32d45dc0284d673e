"""Normalisation between sensor units and the range that codecs work in, exact in both directions.

Values beyond a band's robust range are kept, not clipped, so saturated pixels come back at the
sensor's limit. Pixels without data count in no statistic. Nothing passes through 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.errors import BandError

_SAMPLE = 512
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Normalisation:
    """Maps each band's ``low..high`` to -1..1; values beyond are kept, not clipped.

    Attributes:
        low: Sensor value that becomes -1, one a band.
        high: Sensor value that becomes 1, one a band.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(cls, images: NDArray[Any], bands: BandSet) -> Normalisation:
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
        low, span = self._columns(images.device)
        normalised = (images.float() - low) / span * 2.0 - 1.0
        return torch.where(valid_pixels(images, bands), normalised, fill)

    def inverse(self, normalised: torch.Tensor) -> torch.Tensor:
        """Normalised (N, B, H, W) back to sensor units, float32."""
        low, span = self._columns(normalised.device)
        return (normalised + 1.0) / 2.0 * span + low

    def _columns(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        low = torch.tensor(self.low, device=device)[None, :, None, None]
        high = torch.tensor(self.high, device=device)[None, :, None, None]
        return low, high - low


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
