"""Pixel types of tiles: how sensor units are stored, exactly where the type allows it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.errors import ExportError

DTYPES = ("uint8", "uint16", "float32")
# int16 sets keep their type; it is not offered as a target.
_KEPT = (*DTYPES, "int16")


@dataclass(frozen=True)
class Encoding:
    """Sensor value = ``base`` + ``step`` x stored value; physical value = ``offset`` + ``scale`` x stored value.

    Attributes:
        dtype: Numpy name of the stored type.
        step: Sensor units a stored unit; 1 where values are stored as they are.
        base: Sensor value of a stored 0.
        scale: Factor from the stored to the physical value.
        offset: Summand to the physical value.
        nodata: Stored value that means "no measurement", None if there is none.
        source_nodata: The same in the set.
        limits: Smallest and largest sensor value kept when values are requantised, else None.
    """

    dtype: str
    step: float
    base: float
    scale: float
    offset: float
    nodata: float | None
    source_nodata: float | None
    limits: tuple[float, float] | None = None

    def encode(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Sensor units of any shape to stored values of the same shape.

        Raises:
            ExportError: If a value is infinite, or not a number where the type cannot say so.
        """
        if not np.issubdtype(pixels.dtype, np.floating):
            return pixels.astype(self.dtype, copy=False) if self.limits is None else self._quantise(pixels)
        if np.isinf(pixels).any():
            raise ExportError("holds infinite values; make the set again or replace them")
        if self.limits is not None:
            return self._quantise(pixels)
        if self.nodata is not None and not math.isnan(self.nodata):
            return np.where(np.isnan(pixels), self.nodata, pixels).astype(self.dtype)
        return pixels.astype(self.dtype, copy=False)

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored values to sensor units; exact where ``step`` is 1."""
        if self.step == 1.0 and self.base == 0.0:
            return stored
        values = stored.astype(np.float64) * self.step + self.base
        if self.nodata is not None:
            missing = math.nan if self.source_nodata is None else self.source_nodata
            values = np.where(stored == self.nodata, missing, values)
        return values

    def valid(self, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which stored values are measurements; None where all are."""
        if np.issubdtype(stored.dtype, np.floating):
            finite = np.isfinite(stored)
            mask = finite if self.nodata is None or math.isnan(self.nodata) else finite & (stored != self.nodata)
        elif self.nodata is None:
            return None
        else:
            mask = stored != self.nodata
        return None if mask.all() else mask

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; not-a-number, which JSON lacks, becomes the text ``nan``."""
        values = asdict(self)
        for key in ("nodata", "source_nodata"):
            if isinstance(values[key], float) and math.isnan(values[key]):
                values[key] = "nan"
        return values

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Encoding:
        """Rebuild an encoding from :meth:`to_dict`."""
        numbers = {k: None if data[k] is None else float(data[k]) for k in ("nodata", "source_nodata")}
        limits = None if data["limits"] is None else (float(data["limits"][0]), float(data["limits"][1]))
        return cls(**{**data, **numbers, "limits": limits})

    def _quantise(self, pixels: NDArray[Any]) -> NDArray[Any]:
        assert self.limits is not None
        missing = np.isnan(pixels) if np.issubdtype(pixels.dtype, np.floating) else np.zeros(pixels.shape, bool)
        if self.source_nodata is not None:
            missing |= pixels == self.source_nodata
        values = np.clip(pixels.astype(np.float64), *self.limits)
        stored = np.rint((np.where(missing, self.limits[0], values) - self.base) / self.step)
        return np.where(missing, 0, stored).astype(self.dtype)


def choose_encoding(bands: BandSet, dtype: str | None = None) -> Encoding:
    """How to store a set's pixels.

    Types that hold the set's values exactly store them as they are. A narrower type
    spreads the sensor's valid range over 1 to its largest value and keeps 0 for nodata.

    Args:
        bands: The set's bands.
        dtype: One of :data:`DTYPES`; None keeps that of the set.

    Raises:
        ExportError: If the type is unknown, or the set's own type cannot be written.
    """
    target = bands.dtype if dtype is None else dtype
    if target not in (_KEPT if dtype in (None, bands.dtype) else DTYPES):
        raise ExportError(f"dtype '{target}' is not a pixel type of tiles: choose one of {', '.join(DTYPES)}")
    if np.can_cast(bands.dtype, target, "safe"):
        nodata = bands.nodata if bands.nodata is not None or target != "float32" else math.nan
        return Encoding(target, 1.0, 0.0, bands.scale, bands.offset, nodata, bands.nodata)
    low, high = bands.valid_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ExportError(f"valid range {low}..{high} of sensor '{bands.sensor}' cannot be spread over {target}")
    largest = int(np.iinfo(target).max)
    step = (high - low) / (largest - 1)
    if np.issubdtype(np.dtype(bands.dtype), np.integer):
        step = max(1.0, step)
    base = low - step
    return Encoding(
        dtype=target,
        step=step,
        base=base,
        scale=bands.scale * step,
        offset=bands.scale * base + bands.offset,
        nodata=0.0,
        source_nodata=bands.nodata,
        limits=(low, high),
    )
