"""Where bands lie on the wavelength axis: their place between the bands of the fit, and Fourier features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh

from rsdistill.bands import Band, BandSet
from rsdistill.codecs.kl import block_rows
from rsdistill.errors import BandError
from rsdistill.imaging.pixels import dihedral_views

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


_MAX_BLOCKS = 60_000
# Components kept to predict missing bands from; those beyond count as noise.
_MAX_FACTORS = 1024
# Smallest variance of noise, in squared normalised units: half a percent of a band's range.
_NOISE = 1e-4

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BlockPrior:
    """Mean and factors of image blocks: block = mean + factors f + noise, f standard normal.

    Attributes:
        mean: Mean of each band's block, (A, P), P pixels.
        factors: Factors (A, P, R), the strongest first.
        noise: Variance of the noise.
    """

    mean: torch.Tensor
    factors: torch.Tensor
    noise: float

    @classmethod
    def fit(cls, blocks: torch.Tensor, bands: int, seed: int) -> BlockPrior:
        """Principal components of image blocks and their turned and mirrored copies.

        A block is as likely seen from any side: eight times the blocks to learn covariances from.

        Args:
            blocks: Blocks as channels, band by band, (N, A P, h, w), in normalised units; those with a NaN are
                left out where enough others remain.
            bands: Number A of bands.
            seed: Seed of the choice of blocks.
        """
        rows = block_rows(blocks, blocks.shape[1])
        rows = rows[np.random.default_rng(seed).permutation(len(rows))[:_MAX_BLOCKS]].astype(np.float64)
        mean = _symmetric(rows.mean(0), bands)
        # About the symmetric mean, since the blocks' turned copies would have that one.
        covariance = _symmetric((rows - mean).T @ (rows - mean) / len(rows), bands)
        size, count = len(mean), min(_MAX_FACTORS, len(mean))
        values, vectors = eigh(covariance, subset_by_index=(size - count, size - 1))
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        rest = (np.trace(covariance) - values.sum()) / max(1, size - count)
        return cls(
            torch.from_numpy(mean.astype(np.float32)).reshape(bands, -1),
            torch.from_numpy((vectors * np.sqrt(values)).astype(np.float32)).reshape(bands, -1, count),
            max(_NOISE, float(rest)),
        )

    def deviations(self, latents: int) -> NDArray[np.float32]:
        """Standard deviations of the leading components, (K,)."""
        lengths = np.linalg.norm(self._table()[:, :latents], axis=0)
        return np.asarray(np.maximum(lengths, 1e-4), np.float32)

    def components(self, latents: int) -> NDArray[np.float32]:
        """The leading components over all bands, rows of unit length, (K, A P)."""
        return np.asarray(self._table()[:, :latents].T / self.deviations(latents)[:, None], np.float32)

    def analysis(self, weights: Array, latents: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Expectation of the leading factors given the blocks of some bands: ``rows @ blocks + offsets``.

        Args:
            weights: What each band is made of, (B, A); see :meth:`SpectralAxis.weights`.
            latents: Number K of leading factors wanted.

        Returns:
            Rows (K, B P) and offsets (K,), float32.
        """
        mean, factors = _numpy(self.mean), _numpy(self.factors)
        pixels, count = factors.shape[1:]
        seen = np.tensordot(weights, factors, 1).reshape(-1, count)
        covariance = seen @ seen.T + np.diag(np.repeat(self.noise + self.interpolation_variance(weights), pixels))
        rows = np.linalg.solve(covariance, seen[:, :latents]).T
        offsets = -rows @ (weights @ mean).ravel()
        return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(offsets.astype(np.float32))

    def interpolation_variance(self, weights: Array) -> Array:
        """Variance by which a band between bands of the fit may differ from their average, (B,).

        The variance lost by averaging: that of a Brownian bridge between the bands, and nothing for
        a band of the fit.
        """
        factors = _numpy(self.factors)
        own = np.square(factors).sum((1, 2))
        mixed = np.square(np.tensordot(weights, factors, 1)).sum((1, 2))
        return np.asarray(np.maximum(weights @ own - mixed, 0.0) / factors.shape[1])

    def _table(self) -> Array:
        return _numpy(self.factors.flatten(0, 1))


def _symmetric(moments: Array, bands: int) -> Array:
    """Mean over the eight turns and flips of a block, of moments with axes of (band, pixel)."""
    side = math.isqrt(len(moments) // bands)
    places = np.arange(len(moments)).reshape(bands, side, side)
    turned = [view.numpy().ravel() for view in dihedral_views(torch.from_numpy(places))]
    total = sum(moments[np.ix_(*[order] * moments.ndim)] for order in turned)
    return np.asarray(total / len(turned))


def _numpy(values: torch.Tensor) -> Array:
    return np.asarray(values.double().cpu().numpy())
