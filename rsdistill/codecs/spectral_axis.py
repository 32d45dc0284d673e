"""Where bands lie on the wavelength axis: their place between the bands of the fit, and Fourier features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.bands import Band, BandSet
from rsdistill.errors import BandError

# Width in micrometres of a band that states none: that of the narrow bands of multispectral sensors.
DEFAULT_WIDTH = 0.02
# Octaves of the Fourier features; widths vary more smoothly than wavelengths.
_CENTRE_OCTAVES, _WIDTH_OCTAVES = 5, 2
FEATURES = 2 + 2 * (_CENTRE_OCTAVES + _WIDTH_OCTAVES)
# Points that a band is averaged over.
_SAMPLES = 33


@dataclass(frozen=True)
class SpectralAxis:
    """The wavelengths that a codec was fitted on, in ascending or any other order.

    Attributes:
        centres: Centre wavelengths of the fit's bands in micrometres, (A,).
        widths: Their full widths at half maximum in micrometres, (A,).
    """

    centres: tuple[float, ...]
    widths: tuple[float, ...]

    @classmethod
    def of(cls, bands: BandSet) -> SpectralAxis:
        """The axis that a band set spans.

        Raises:
            BandError: If a band states no centre wavelength, or two share centre and width.
        """
        places = [(_centre(band, bands), _width(band)) for band in bands]
        for position, place in enumerate(places):
            if place in places[:position]:
                first, second = bands.names[places.index(place)], bands.names[position]
                raise BandError(
                    f"bands '{first}' and '{second}' of sensor '{bands.sensor}' have the same wavelength and width, "
                    f"by which codec 'spectral' tells bands apart; correct one, or leave it out"
                )
        centres, widths = zip(*places, strict=True)
        return cls(centres, widths)

    @property
    def limits(self) -> tuple[float, float]:
        """Shortest and longest wavelength that any band of the fit covers, micrometres."""
        pairs = list(zip(self.centres, self.widths, strict=True))
        return min(c - w / 2 for c, w in pairs), max(c + w / 2 for c, w in pairs)

    def weights(self, bands: BandSet) -> NDArray[np.float64]:
        """How much each band of the fit counts in each band asked for.

        Between two bands of the fit weights are linear in wavelength. A band that is broader than the
        fit's bands around it averages over the part of its width that exceeds theirs (variances of
        responses add up). A band of the fit therefore is exactly itself, and no weight is negative.

        Args:
            bands: Any bands within the limits, B of them.

        Returns:
            Weights (B, A), rows sum to 1.

        Raises:
            BandError: If a band states no centre wavelength, or lies outside the limits.
        """
        return np.stack([self._row(self._inside(band, bands), _width(band)) for band in bands])

    def features(self, bands: BandSet) -> torch.Tensor:
        """Fourier features of the logarithms of wavelength and relative width, float32 (B, FEATURES).

        Raises:
            BandError: As of :meth:`weights`.
        """
        low, high = (math.log(limit) for limit in self.limits)
        rows = []
        for band in bands:
            centre, width = self._inside(band, bands), _width(band)
            place = 2.0 * (math.log(centre) - low) / max(high - low, 1e-6) - 1.0
            # Relative widths of 0.4 % to 100 % lie between -1 and 1.
            breadth = max(-1.0, 1.0 + math.log10(width / centre) / 1.2)
            rows.append([*_waves(place, _CENTRE_OCTAVES), *_waves(breadth, _WIDTH_OCTAVES)])
        return torch.tensor(rows, dtype=torch.float32)

    def _inside(self, band: Band, bands: BandSet) -> float:
        centre = _centre(band, bands)
        low, high = self.limits
        if not low <= centre <= high:
            raise BandError(
                f"band '{band.name}' of sensor '{bands.sensor}' at {centre:g} µm lies outside the {low:.3f} to "
                f"{high:.3f} µm that this codec was fitted on; leave it out, or fit a codec on bands around it"
            )
        return centre

    def _row(self, centre: float, width: float) -> NDArray[np.float64]:
        here: NDArray[np.float64] = self._between(np.array([centre]))[0]
        own = float(here @ np.square(self.widths))
        excess = math.sqrt(max(0.0, width**2 - own))
        if excess < 1e-6:
            return here
        points = centre + excess * (np.arange(_SAMPLES) / (_SAMPLES - 1) - 0.5)
        return np.asarray(self._between(points).mean(0))

    def _between(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Linear interpolation: weights (n, A) of the bands of the fit at some wavelengths."""
        order = np.argsort(self.centres, kind="stable")
        knots, columns = np.unique(np.asarray(self.centres)[order], return_index=True)
        weights = np.zeros((len(points), len(order)))
        for knot, column in enumerate(order[columns]):
            weights[:, column] = np.interp(points, knots, np.eye(len(knots))[knot])
        return weights


def _centre(band: Band, bands: BandSet) -> float:
    if band.centre is None or not band.centre > 0:
        raise BandError(
            f"band '{band.name}' of sensor '{bands.sensor}' has no centre wavelength, which codec 'spectral' goes by; "
            f"state its 'centre' in micrometres, or use codec 'kl'"
        )
    return band.centre


def _width(band: Band) -> float:
    return band.width if band.width and band.width > 0 else DEFAULT_WIDTH


def _waves(value: float, octaves: int) -> list[float]:
    angles = [math.pi / 2 * 2**octave * value for octave in range(octaves)]
    return [value, *map(math.sin, angles), *map(math.cos, angles)]
