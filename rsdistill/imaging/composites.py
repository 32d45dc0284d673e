"""Colour pictures of chips: natural and false colour, bands chosen by wavelength."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import FALSE_COLOUR, NATURAL_COLOUR, BandSet
from rsdistill.errors import BandError, OptionError

# Wavelengths that each composite shows as red, green and blue.
COMPOSITES = {"natural": NATURAL_COLOUR, "false": FALSE_COLOUR}
Limits = tuple[NDArray[np.float64], NDArray[np.float64]]


def composite_wavelengths(colour: str, bands: BandSet) -> tuple[float, float, float]:
    """Wavelengths in µm to show as red, green and blue.

    Natural colour is given for all bands: chips without it are shown by their first bands.

    Args:
        colour: ``"natural"`` or ``"false"`` (near infrared shown as red).
        bands: Bands of the chips to show.

    Raises:
        OptionError: If the colour is unknown.
        BandError: If false colour is asked for and there is no near infrared, red or green.
    """
    if colour not in COMPOSITES:
        raise OptionError(f"colour '{colour}' is unknown: choose 'natural' or 'false'")
    if colour == "false" and not bands.has(FALSE_COLOUR):
        raise BandError(
            f"false colour needs near infrared, red and green; sensor '{bands.sensor}' has "
            f"{', '.join(bands.names)}: choose 'natural'"
        )
    return COMPOSITES[colour]


def stretch_limits(
    images: NDArray[np.generic],
    bands: BandSet,
    wavelengths: Sequence[float] = NATURAL_COLOUR,
    percentiles: tuple[float, float] = (2.0, 98.0),
) -> Limits:
    """Black and white points of a composite, shared by all pictures that are to be compared.

    8-bit imagery is shown as it is; other types are stretched between percentiles.

    Args:
        images: Chips of shape (N, B, H, W) in sensor units.
        bands: Their bands.
        wavelengths: Wavelengths in µm to show as red, green and blue.
        percentiles: Lower and upper percentile of the valid pixels.

    Returns:
        Two arrays of shape (3,): lower and upper limit of red, green and blue.
    """
    chosen = bands.composite(wavelengths)
    if bands.dtype == "uint8":
        return np.zeros(3), np.full(3, 255.0)
    low, high = np.zeros(3), np.ones(3)
    for position, band in enumerate(chosen):
        values = np.asarray(images[:, band], dtype=np.float64)
        valid = np.isfinite(values) & (values != bands.nodata if bands.nodata is not None else True)
        if valid.any():
            low[position], high[position] = np.percentile(values[valid], percentiles)
    # One range for all three keeps hues; the darkest and brightest band set it.
    return np.full(3, low.min()), np.full(3, max(high.max(), low.min() + 1e-6))


def to_rgb(
    images: NDArray[np.generic],
    bands: BandSet,
    wavelengths: Sequence[float] = NATURAL_COLOUR,
    limits: Limits | None = None,
) -> NDArray[np.uint8]:
    """Render chips as 8-bit colour pictures.

    Args:
        images: Chips of shape (N, B, H, W) in sensor units.
        bands: Their bands.
        wavelengths: Wavelengths in µm to show as red, green and blue.
        limits: From :func:`stretch_limits`; None computes them from these images.

    Returns:
        Pictures of shape (N, H, W, 3), uint8; invalid pixels are black.
    """
    low, high = limits if limits is not None else stretch_limits(images, bands, wavelengths)
    chosen = np.asarray(images)[:, bands.composite(wavelengths)].astype(np.float64)
    valid = np.isfinite(chosen) & (chosen != bands.nodata if bands.nodata is not None else True)
    scaled = (chosen - low[None, :, None, None]) / (high - low)[None, :, None, None]
    scaled = np.where(valid, np.clip(scaled, 0.0, 1.0), 0.0)
    return np.round(scaled.transpose(0, 2, 3, 1) * 255.0).astype(np.uint8)
