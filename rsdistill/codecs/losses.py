"""Reconstruction losses that respect spectra: weighted error in normalised units plus spectral angle.

Pixels without data carry NaN in the wanted chips and count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.bands import BandSet
from rsdistill.imaging.normalisation import RangeNormalisation, valid_pixels
from rsdistill.imaging.similarity import spectral_angles

# Immerkaer's mask: the difference of two Laplacians. Blind to planes and straight edges along the axes.
_LAPLACIANS = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
_LAPLACIANS_NORM = 6.0
# Median of |x| of a standard normal variable.
_MEDIAN_NORMAL = 0.67449
# Standard deviation of rounding to whole numbers.
_ROUNDING = 12.0**-0.5
# Bands resampled from coarser pixels look almost free of noise, which they are not: no weight is
# further than this factor from that of the median band.
_LARGEST_RATIO = 4.0
# Spectra shorter than this, as a share of the sensor's range, have no direction worth matching.
_DARK = 1e-4


@dataclass(frozen=True)
class LossOptions:
    """How reconstructions are compared with chips.

    Attributes:
        error: ``l1``, mean absolute error, or ``rms``, root of the mean square of each chip: what PSNR measures.
        spectral_angle: Weight of the mean spectral angle in radians beside the error in normalised units.
        band_weights: ``uniform``, or ``noise``: bands count by the inverse of their noise level.
    """

    error: Literal["l1", "rms"] = "l1"
    spectral_angle: Annotated[float, Field(ge=0)] = 0.1
    band_weights: Literal["uniform", "noise"] = "uniform"


class LossTerms(NamedTuple):
    """A reconstruction loss and its parts, all scalars.

    Attributes:
        total: What to minimise.
        error: Weighted error in normalised units.
        angle: Mean spectral angle in radians; 0 where it has no weight.
    """

    total: torch.Tensor
    error: torch.Tensor
    angle: torch.Tensor


def reconstruction_loss(
    rebuilt: torch.Tensor,
    wanted: torch.Tensor,
    normalisation: RangeNormalisation,
    bands: BandSet,
    weights: torch.Tensor,
    options: LossOptions,
) -> LossTerms:
    """Weighted error plus spectral angle.

    Args:
        rebuilt: Reconstructed chips (N, B, H, W) in normalised units.
        wanted: The chips (N, B, H, W) in normalised units, NaN where there is no data.
        normalisation: What normalised them.
        bands: Their bands.
        weights: Weight of each band (B,), of mean 1; see :func:`band_weights`.
        options: Which error, and the weight of the angle.
    """
    valid = torch.isfinite(wanted)
    wanted = torch.where(valid, wanted, 0.0)
    error = weighted_error(rebuilt, wanted, weights, valid, options.error)
    angle = torch.zeros_like(error)
    if options.spectral_angle and len(bands) > 1:
        ours, theirs = (to_reflectance(normalisation.inverse(chips), bands) for chips in (rebuilt, wanted))
        angle = spectral_angle(ours, theirs, valid)
    return LossTerms(error + options.spectral_angle * angle, error, angle)


def weighted_error(
    rebuilt: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor, valid: torch.Tensor, kind: str
) -> torch.Tensor:
    """Mean error over the valid values, each weighted by its band.

    Args:
        rebuilt: Reconstructed chips (N, B, H, W).
        wanted: The chips, finite everywhere.
        weights: Weight of each band (B,).
        valid: Which values count, bool (N, B, H, W).
        kind: ``l1`` or ``rms``; chips without any valid value add nothing to either.
    """
    share = valid * weights.to(rebuilt)[:, None, None]
    if kind == "l1":
        return ((rebuilt - wanted).abs() * share).sum() / share.sum().clamp_min(1e-12)
    square = ((rebuilt - wanted).square() * share).sum((1, 2, 3)) / share.sum((1, 2, 3)).clamp_min(1e-12)
    # The summand keeps the root's gradient finite at a perfect reconstruction.
    return (square + 1e-12).sqrt().mean()


def spectral_angle(rebuilt: torch.Tensor, wanted: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Mean angle in radians between the spectra of two images (Kruse et al. 1993, SAM).

    Pixels that are dark in either image, or lack a band, have no direction and are left out.

    Args:
        rebuilt: Reflectance (N, B, H, W), zero where nothing is reflected.
        wanted: Reflectance of the same shape.
        valid: Which values hold data, bool of the same shape; None for all.
    """
    counts = torch.ones_like(wanted, dtype=torch.bool) if valid is None else valid
    lengths = [torch.linalg.vector_norm(image, dim=1) for image in (rebuilt, wanted)]
    chosen = counts.all(1) & (lengths[0] > _DARK) & (lengths[1] > _DARK)
    if not chosen.any():
        return rebuilt.sum() * 0.0
    return spectral_angles(*(image.movedim(1, -1)[chosen] for image in (rebuilt, wanted))).mean()


def to_reflectance(images: torch.Tensor, bands: BandSet) -> torch.Tensor:
    """Sensor units (N, B, H, W) to a share of the sensor's range, zero where nothing is reflected.

    Uses the set's scale and offset. Sets whose physical values may be negative are counted from
    their lowest valid value.
    """
    low, high = (limit * bands.scale + bands.offset for limit in bands.valid_range)
    floor = min(0.0, low)
    return (images * bands.scale + (bands.offset - floor)) / (high - floor)


def noise_levels(images: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Standard deviation of each band's noise, in sensor units.

    The high-pass filter of Immerkaer (1996, Fast noise variance estimation) with the median absolute
    response (Donoho and Johnstone 1994) in place of its mean, so that edges do not count as noise;
    median over the chips. Texture of one pixel's size is noise to it. Never below the rounding of whole numbers.

    Args:
        images: Chips (N, B, H, W), at least 3 pixels on a side.
        bands: Their bands.

    Returns:
        Noise levels (B,).
    """
    mask = torch.tensor(_LAPLACIANS)[None, None]
    floor = _ROUNDING if np.issubdtype(np.dtype(bands.dtype), np.integer) else 0.0
    levels = []
    for position in range(len(bands)):
        band = torch.from_numpy(images[:, position : position + 1].astype(np.float32))
        valid = valid_pixels(band, bands)
        response = F.conv2d(torch.where(valid, band, 0.0), mask).abs() / _LAPLACIANS_NORM
        # A response is of use where all nine pixels hold data.
        clean = -F.max_pool2d(-valid.float(), 3, stride=1) > 0.5
        medians = [float(r[c].median()) for r, c in zip(response, clean, strict=True) if c.any()]
        levels.append(max(floor, float(np.median(medians)) / _MEDIAN_NORMAL) if medians else floor)
    return np.asarray(levels, np.float64)


def band_weights(
    images: NDArray[Any], bands: BandSet, normalisation: RangeNormalisation, options: LossOptions
) -> torch.Tensor:
    """Weight of each band in the error, float32 (B,) of mean 1.

    Args:
        images: Train chips (N, B, H, W) in sensor units, to estimate noise from.
        bands: Their bands.
        normalisation: Puts noise into the units of the error.
        options: Whether to weight at all.
    """
    if options.band_weights == "uniform":
        return torch.ones(len(bands))
    span = np.asarray(normalisation.high) - np.asarray(normalisation.low)
    noise = np.maximum(noise_levels(images, bands) / span, 1e-9)
    weights = np.clip(np.median(noise) / noise, 1.0 / _LARGEST_RATIO, _LARGEST_RATIO)
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))
