"""From a scene to pixel values: sunlight and shadow, air, optics, noise, and the sensor's units."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.datasets.synthetic.canvas import MATERIALS, Array, Canvas, band_responses, vapour_depths

# A physical range wider than this is no reflectance: the values are plain digital numbers.
_CALIBRATED_SPAN = 10.0
# Reflectance that an uncalibrated camera shows as white, and its tone curve.
_WHITE, _GAMMA = 0.55, 1.7
# Share of a pixel's light that the optics spread over its neighbours, each way.
_BLUR = 0.06


@dataclass(frozen=True)
class Light:
    """Sun, air and sensor at one moment.

    Attributes:
        gain: Brightness relative to a nominal day.
        azimuth: Direction that light comes from, radians clockwise from east (image axes).
        elevation: Height of the sun, radians.
        haze: Path reflectance at 0.48 µm.
        vapour: Water vapour relative to the average.
        noise: Standard deviation of the sensor's noise, reflectance.
    """

    gain: float
    azimuth: float
    elevation: float
    haze: float
    vapour: float
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Light:
        """A random moment."""
        return cls(
            gain=rng.uniform(0.72, 1.28),
            azimuth=rng.uniform(0.0, 2.0 * math.pi),
            elevation=math.radians(rng.uniform(30.0, 65.0)),
            haze=0.045 * rng.random() ** 1.5 + 0.004,
            vapour=rng.uniform(0.4, 1.8),
            noise=rng.uniform(0.0008, 0.0030),
        )


def illumination(canvas: Canvas, light: Light) -> tuple[Array, Array]:
    """How the sun falls on the relief.

    Args:
        canvas: Heights in metres.
        light: Sun direction.

    Returns:
        Slope factor (about 1) and share in shadow, each (size, size).
    """
    height, pixel = canvas.height, canvas.pixel
    east, south = math.cos(light.azimuth), math.sin(light.azimuth)
    climb = math.tan(light.elevation)
    padded = np.pad(height, 1, mode="edge")
    toward = east * (padded[1:-1, 2:] - padded[1:-1, :-2]) + south * (padded[2:, 1:-1] - padded[:-2, 1:-1])
    # A slope that rises toward the sun faces away from it.
    slope = np.clip(1.0 - 0.5 * toward / (2.0 * pixel * climb), 0.60, 1.30)
    steps = math.ceil(float(height.max()) / (climb * pixel))
    shadow: Array = np.zeros_like(height)
    if steps == 0:
        return slope, shadow
    padded = np.pad(height, steps, mode="edge")
    size = canvas.size
    for step in range(1, steps + 1):
        row, col = steps + round(step * south), steps + round(step * east)
        blocker = padded[row : row + size, col : col + size]
        above = (blocker - height) / (climb * pixel) - step + 1.0
        shadow = np.maximum(shadow, np.clip(above, 0.0, 1.0))
    return slope, shadow


def reflectance(canvas: Canvas, light: Light, bands: BandSet) -> Array:
    """Top-of-atmosphere reflectance of shape (B, size, size), without noise.

    Raises:
        BandError: If a band's wavelength is unknown or not covered by the spectra.
    """
    order = list(MATERIALS)
    rows = [order.index(name) for name in canvas.materials]
    spectra = band_responses(bands)[rows]
    wavelength = np.array(bands.centres, np.float32)[:, None, None]
    surface = np.tensordot(spectra.T, canvas.fractions, axes=1) * canvas.tone
    slope, shadow = illumination(canvas, light)
    # Sky light fills shadows, blue more than red.
    sky = 0.14 + 0.16 * (0.48 / wavelength) ** 3
    lit = light.gain * surface * ((1.0 - sky) * slope * (1.0 - shadow) + sky)
    haze = light.haze * (0.48 / wavelength) ** 2
    transmission = np.exp(-light.vapour * vapour_depths(bands))[:, None, None]
    return np.asarray(_soften(lit * (1.0 - haze) + haze) * transmission, np.float32)


def _soften(image: Array) -> Array:
    """Spread a little of each pixel over its neighbours, as optics do."""
    for axis in (1, 2):
        ends = [(0, 0)] * 3
        ends[axis] = (1, 1)
        padded = np.pad(image, ends, mode="edge")
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(None, -2), slice(2, None)
        image = (1.0 - 2.0 * _BLUR) * image + _BLUR * (padded[tuple(before)] + padded[tuple(after)])
    return image


def add_noise(image: Array, light: Light, bands: BandSet, entropy: Sequence[int]) -> Array:
    """Add read-out and shot noise, drawn for each band from its own stream.

    Leaving a band out, or changing the order, therefore changes no other band.

    Args:
        image: Reflectance (B, size, size).
        light: States the noise.
        bands: Their names seed the streams.
        entropy: Seed of the chip.
    """
    noisy = np.empty_like(image)
    for plane, band in enumerate(bands):
        rng = np.random.default_rng([*entropy, zlib.crc32(band.name.lower().encode())])
        grain = rng.standard_normal(image.shape[1:], np.float32)
        noisy[plane] = image[plane] + grain * np.sqrt(light.noise**2 + 1e-4 * np.maximum(image[plane], 0.0) ** 2)
    return noisy


def to_units(image: Array, bands: BandSet) -> NDArray[Any]:
    """Reflectance to pixel values of the sensor's type.

    A sensor whose scale and offset make its valid range one of reflectance is inverted
    exactly. Any other (8-bit cameras above all) gets a display-like tone curve that fills
    its valid range.

    Args:
        image: Reflectance (B, H, W).
        bands: Type, scale, offset, valid range and nodata value.

    Returns:
        Values of ``bands.dtype`` within the valid range, none of them nodata.
    """
    low, high = bands.valid_range
    if bands.scale * (high - low) <= _CALIBRATED_SPAN:
        values = (image.astype(np.float64) - bands.offset) / bands.scale
    else:
        values = low + (high - low) * np.clip(image.astype(np.float64) / _WHITE, 0.0, 1.0) ** (1.0 / _GAMMA)
    dtype = np.dtype(bands.dtype)
    if dtype.kind == "f":
        return _clear_of_nodata(np.clip(values, low, high).astype(dtype), bands)
    limits = np.iinfo(dtype)
    bounds = max(math.ceil(low), int(limits.min)), min(math.floor(high), int(limits.max))
    return _clear_of_nodata(np.clip(np.round(values), *bounds).astype(dtype), bands)


def _clear_of_nodata(pixels: NDArray[Any], bands: BandSet) -> NDArray[Any]:
    """Move values that happen to equal nodata to their neighbour within the valid range."""
    if bands.nodata is None or math.isnan(bands.nodata):
        return pixels
    clash = pixels == bands.nodata
    up = bands.nodata < bands.valid_range[1]
    if pixels.dtype.kind == "f":
        target = np.nextafter(pixels[clash], np.asarray(np.inf if up else -np.inf, pixels.dtype))
    else:
        target = pixels[clash] + 1 if up else pixels[clash] - 1
    pixels[clash] = target
    return pixels
