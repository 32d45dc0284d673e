"""Reconstruction losses that respect spectra: error in normalised units plus spectral angle.

Pixels without data carry NaN in the wanted chips and count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from rsdistill.bands import BandSet
from rsdistill.imaging.normalisation import RangeNormalisation
from rsdistill.imaging.similarity import spectral_angles

# Spectra shorter than this, as a share of the sensor's range, have no direction worth matching.
_DARK = 1e-4


@dataclass(frozen=True)
class LossOptions:
    """How reconstructions are compared with chips.

    Attributes:
        error: ``l1``, mean absolute error, or ``rms``, root of the mean square of each chip: what PSNR measures.
        spectral_angle: Weight of the mean spectral angle in radians beside the error in normalised units.
    """

    RENAMED: ClassVar[dict[str, str]] = {"band_weights": "all bands count alike; no recipe weighted them"}

    error: Literal["l1", "rms"] = "l1"
    spectral_angle: Annotated[float, Field(ge=0)] = 0.1


class LossTerms(NamedTuple):
    """A reconstruction loss and its parts, all scalars.

    Attributes:
        total: What to minimise.
        error: Error in normalised units.
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
    options: LossOptions,
) -> LossTerms:
    """Error plus spectral angle.

    Args:
        rebuilt: Reconstructed chips (N, B, H, W) in normalised units.
        wanted: The chips (N, B, H, W) in normalised units, NaN where there is no data.
        normalisation: What normalised them.
        bands: Their bands.
        options: Which error, and the weight of the angle.
    """
    valid = torch.isfinite(wanted)
    wanted = torch.where(valid, wanted, 0.0)
    error = mean_error(rebuilt, wanted, valid, options.error)
    angle = torch.zeros_like(error)
    if options.spectral_angle and len(bands) > 1:
        ours, theirs = (to_reflectance(normalisation.inverse(chips), bands) for chips in (rebuilt, wanted))
        angle = spectral_angle(ours, theirs, valid)
    return LossTerms(error + options.spectral_angle * angle, error, angle)


def mean_error(rebuilt: torch.Tensor, wanted: torch.Tensor, valid: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean error over the valid values.

    Args:
        rebuilt: Reconstructed chips (N, B, H, W).
        wanted: The chips, finite everywhere.
        valid: Which values count, bool (N, B, H, W).
        kind: ``l1`` or ``rms``; chips without any valid value add nothing to either.
    """
    if kind == "l1":
        return ((rebuilt - wanted).abs() * valid).sum() / valid.sum().clamp_min(1)
    square = ((rebuilt - wanted).square() * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp_min(1)
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
