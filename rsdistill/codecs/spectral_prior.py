"""A Gaussian model of image blocks at any wavelength, and the best linear latents of whichever bands there are.

Block PCA over all bands of a fit says how the pixels of a block vary together, across space and bands.
Interpolated over wavelength it covers bands that were not in the fit. Its latents are the leading
components; where bands are missing, their conditional expectation given the bands that are there takes
their place (probabilistic PCA: Tipping and Bishop, 1999). For all bands that is block PCA itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh

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
        rows = blocks.permute(0, 2, 3, 1).reshape(-1, blocks.shape[1]).numpy()
        whole = rows[np.isfinite(rows).all(1)]
        rows = whole if len(whole) > rows.shape[1] else np.nan_to_num(rows, nan=-1.0)
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
        covariance = seen @ seen.T + np.diag(np.repeat(self.noise + self._doubt(weights), pixels))
        rows = np.linalg.solve(covariance, seen[:, :latents]).T
        offsets = -rows @ (weights @ mean).ravel()
        return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(offsets.astype(np.float32))

    def _doubt(self, weights: Array) -> Array:
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
    turned = [np.rot90(way, turn, (1, 2)).ravel() for way in (places, places[:, :, ::-1]) for turn in range(4)]
    total = sum(moments[np.ix_(*[order] * moments.ndim)] for order in turned)
    return np.asarray(total / len(turned))


def _numpy(values: torch.Tensor) -> Array:
    return np.asarray(values.double().cpu().numpy())
