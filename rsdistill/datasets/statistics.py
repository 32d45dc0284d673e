"""Statistics of each band over many chips, in one pass and bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import BandSet

PERCENTILES = (0.5, 99.5)
# Percentiles come from a regular sample of at most about so many pixels a band.
_SAMPLE = 2_000_000


class BandStatistics:
    """Minimum, maximum, mean, standard deviation and robust range of each band, nodata left out.

    Args:
        bands: The bands of the chips to come.
        pixels: Pixels a band that are to come in all, which sets how densely percentiles are sampled.
    """

    def __init__(self, bands: BandSet, pixels: int) -> None:
        self._bands, self._step = bands, max(1, -(-pixels // _SAMPLE))
        self._moments = [_Moments() for _ in bands]
        self._samples: list[list[NDArray[Any]]] = [[] for _ in bands]

    def update(self, chips: NDArray[Any]) -> None:
        """Take in chips (n, B, H, W)."""
        for band, (moments, sample) in enumerate(zip(self._moments, self._samples, strict=True)):
            values = chips[:, band].ravel()
            if self._bands.nodata is not None:
                values = values[values != self._bands.nodata]
            if values.size:
                moments.update(values.astype(np.float64))
                sample.append(values[:: self._step].copy())

    def compute(self) -> list[dict[str, Any]]:
        """One mapping a band: name, count, min, max, mean, std, low and high (the 0.5 and 99.5 % quantiles).

        A band without a single measurement has the count 0 and None for the rest.
        """
        return [
            {"name": name, **moments.to_dict(), **_robust(sample)}
            for name, moments, sample in zip(self._bands.names, self._moments, self._samples, strict=True)
        ]


class _Moments:
    """Running count, range, mean and sum of squared deviations (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def update(self, values: NDArray[np.float64]) -> None:
        """Merge some values in."""
        count, mean = self.count + values.size, float(values.mean())
        shift = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + shift**2 * self.count * values.size / count
        self.mean += shift * values.size / count
        self.count = count
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain numbers for JSON."""
        if not self.count:
            return {"count": 0, "min": None, "max": None, "mean": None, "std": None}
        deviation = float(np.sqrt(self.squares / self.count))
        return {"count": self.count, "min": self.low, "max": self.high, "mean": self.mean, "std": deviation}


def _robust(sample: list[NDArray[Any]]) -> dict[str, float | None]:
    """Range that leaves out the extremes."""
    if not sample:
        return {"low": None, "high": None}
    low, high = np.percentile(np.concatenate(sample), PERCENTILES)
    return {"low": float(low), "high": float(high)}
