"""The ground as fractions of materials a pixel, with relief: what a scene is painted on.

All coordinates are metres from the middle of the chip, x to the east and y to the
south. A scene covers the same ground at any number of pixels, and every edge is
antialiased by the share of the pixel that it covers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import Band, BandSet
from rsdistill.errors import BandError

Spectrum = NDArray[np.float64]

# Micrometres, a step of 5 nm.
WAVELENGTHS: Spectrum = np.linspace(0.4, 2.5, 421)
# Where mineral, water and man-made surfaces are given, micrometres.
_KNOTS = (0.40, 0.48, 0.52, 0.56, 0.62, 0.70, 0.75, 0.85, 1.00, 1.30, 1.60, 2.00, 2.50)
# Width taken for a band that states none, in micrometres.
_NARROW = 0.010


def _dip(centre: float, width: float, depth: float) -> Spectrum:
    """Factor of a Gaussian absorption feature; centre and width in µm."""
    factor: Spectrum = 1.0 - depth * np.exp(-(((WAVELENGTHS - centre) / width) ** 2))
    return factor


def _surface(percent: tuple[float, ...], *dips: tuple[float, float, float]) -> Spectrum:
    """Straight lines between reflectances in per cent at :data:`_KNOTS`, with absorption features on top."""
    spectrum = np.interp(WAVELENGTHS, _KNOTS, percent) / 100.0
    for dip in dips:
        spectrum = spectrum * _dip(*dip)
    return spectrum


def _plant(green: float, red: float, nir: float, water: float, edge: float = 0.715) -> Spectrum:
    """Foliage: a green peak, the red edge, a plateau, and leaf-water absorption.

    Args:
        green: Reflectance at the green peak.
        red: Reflectance in the chlorophyll absorptions, blue and red.
        nir: Reflectance of the near-infrared plateau.
        water: Strength of the leaf-water features, 0 (dry) to 1 (lush).
        edge: Middle of the red edge in µm.
    """
    visible = red + (green - red) * np.exp(-(((WAVELENGTHS - 0.555) / 0.035) ** 2))
    step = 1.0 / (1.0 + np.exp(-(WAVELENGTHS - edge) / 0.014))
    # Beyond 1.3 µm leaf water draws the whole plateau down, not only its bands.
    fall = 1.0 - 0.55 * water / (1.0 + np.exp(-(WAVELENGTHS - 1.42) / 0.05))
    plateau = nir * fall * _dip(0.97, 0.03, 0.10 * water) * _dip(1.20, 0.05, 0.16 * water)
    plateau = plateau * _dip(1.45, 0.06, 0.50 * water) * _dip(1.94, 0.09, 0.75 * water)
    plateau = plateau * _dip(2.50, 0.30, 0.60 * water)
    return np.asarray(visible * (1.0 - step) + plateau * step)


# Water of soils and other damp mineral surfaces.
_DAMP = ((1.42, 0.04, 0.08), (1.92, 0.06, 0.14))
_CLAY = (2.20, 0.03, 0.07)
_WET = ((1.45, 0.08, 0.4), (1.94, 0.1, 0.6))
_STALKS = ((1.94, 0.08, 0.25), (2.10, 0.05, 0.13))

MATERIALS: dict[str, Spectrum] = {
    "grass": _plant(0.125, 0.046, 0.44, 0.75),
    "crop": _plant(0.105, 0.034, 0.52, 0.95, 0.720),
    "broadleaf": _plant(0.085, 0.028, 0.40, 0.90),
    "conifer": _plant(0.056, 0.023, 0.23, 1.00, 0.718),
    "autumn_leaf": _surface(
        (3.5, 4.3, 6.17, 9.5, 15.5, 20, 30.1, 31.2, 32.8, 36, 30.5, 23.2, 14), (1.45, 0.06, 0.25), (1.94, 0.09, 0.45)
    ),
    "dry_grass": _surface((6, 9.6, 11.8, 14.4, 17.9, 21.5, 24, 29, 32, 38, 35.8, 29.4, 20), *_STALKS),
    "straw": _surface((9, 14.6, 17.8, 21.4, 26.2, 31, 33.3, 38, 40.3, 45, 43.5, 37, 27), *_STALKS),
    "litter": _surface((3.5, 5.1, 5.9, 6.83, 8.83, 11.5, 13.7, 18, 21, 27, 27, 22.1, 14), *_STALKS),
    "soil_brown": _surface((5, 7.8, 9.5, 11.5, 14.2, 17, 18.2, 20.5, 24, 28, 32, 29.8, 27), *_DAMP, _CLAY),
    "soil_red": _surface((4, 6, 7.67, 10, 19, 22.7, 25, 25, 27.3, 32.7, 38, 34.9, 31), *_DAMP, _CLAY),
    "soil_pale": _surface((12, 16.8, 19.4, 22.2, 25.8, 29, 30.2, 32.5, 36, 39.5, 43, 40.3, 37), *_DAMP, _CLAY),
    "mud": _surface((5, 6.87, 7.8, 8.7, 9.9, 11.5, 11.9, 12.8, 14, 12, 9, 6.78, 4), *_WET),
    "sand": _surface((19, 25.4, 28.8, 32.4, 37, 41, 42, 44, 47, 50, 53, 50.8, 48), *_DAMP),
    "wet_sand": _surface((10, 12.7, 14, 15.3, 17.3, 20, 20.2, 20.5, 21, 17, 12, 8.89, 5), *_WET),
    "gravel": _surface((12, 14.7, 16, 17.2, 18.4, 20, 20.5, 21.5, 23, 24.5, 26, 25.1, 24), _CLAY),
    "water": _surface((5.5, 5.2, 4.6, 4, 2.53, 1.09, 0.71, 0.4, 0.22, 0.1, 0.1, 0.1, 0.1)),
    "turbid_water": _surface((4.5, 6.9, 8.64, 10.9, 10.9, 7.64, 5.81, 3.5, 0.8, 0.2, 0.18, 0.14, 0.1)),
    "shallow_water": _surface((10, 15, 15.7, 13.7, 7.6, 3, 1.72, 0.8, 0.38, 0.1, 0.1, 0.1, 0.1)),
    "foam": _surface(
        (50, 49.2, 48.8, 48.4, 47.8, 47, 44.7, 40.2, 33.7, 21.2, 10, 7.33, 4), (1.45, 0.08, 0.5), (1.94, 0.1, 0.7)
    ),
    "asphalt": _surface((7, 7.96, 8.44, 8.89, 9.45, 10.2, 10.5, 11.2, 12.2, 13.9, 15.5, 15.7, 16)),
    "concrete": _surface((19, 23, 24.7, 26.1, 27.8, 28.7, 29.4, 30.2, 31, 32.2, 33, 30.3, 27), *_DAMP),
    "tile": _surface((5, 6.44, 7.87, 10, 21, 26, 26.6, 27.8, 30, 34.5, 39, 37.2, 35)),
    "slate": _surface((8.5, 9.19, 9.54, 9.85, 10.1, 10.5, 10.8, 11.2, 12, 13, 14, 13.6, 13)),
    "metal": _surface((33, 35.1, 36.2, 37, 37, 37, 36.2, 34.8, 36, 42, 44.2, 43.9, 42)),
    "rust": _surface((4, 5, 5.5, 8.75, 13.2, 18, 17.7, 17.1, 21.3, 29.6, 34.4, 35.2, 34)),
    "white_paint": _surface((40, 65, 66.3, 67.7, 68.8, 68, 67.5, 66.5, 63.3, 56, 50, 41.1, 30), (1.7, 0.05, 0.12)),
    "panel": _surface((6, 5.8, 5.2, 4.6, 4.43, 4.2, 4.32, 4.56, 7.87, 16, 15.5, 12.6, 9)),
    "pool": _surface((24, 33, 31.4, 23.7, 12.3, 5.57, 2, 1.44, 0.6, 0.52, 0.44, 0.33, 0.2)),
    "car_red": _surface((5, 5, 5, 5, 25.8, 34.9, 38.5, 41.6, 40.5, 38.2, 36, 29.8, 22)),
    "car_blue": _surface((14, 17.6, 12.7, 8.7, 6.9, 12, 18, 24.2, 25, 26.5, 28, 23.6, 18)),
    "car_dark": _surface((3, 3.05, 3.08, 3.11, 3.15, 3.2, 3.42, 3.85, 4.5, 4.8, 5.1, 5.5, 6)),
}


def _response(band: Band, sensor: str) -> Spectrum:
    """Relative response of a band on :data:`WAVELENGTHS`, summing to one.

    Raises:
        BandError: If the band's wavelength is unknown or outside 0.4 to 2.5 µm.
    """
    low, high = float(WAVELENGTHS[0]), float(WAVELENGTHS[-1])
    if band.centre is None:
        raise BandError(
            f"band '{band.name}' of sensor '{sensor}' has no centre wavelength, so its reflectance "
            "cannot be computed; state 'centre' in micrometres"
        )
    if not low <= band.centre <= high:
        raise BandError(
            f"band '{band.name}' of sensor '{sensor}' is centred at {band.centre} µm, outside the {low} to "
            f"{high} µm that material spectra cover; leave it out (are its units micrometres?)"
        )
    sigma = (band.width or _NARROW) / (2.0 * math.sqrt(2.0 * math.log(2.0)))
    response: Spectrum = np.exp(-0.5 * ((WAVELENGTHS - band.centre) / sigma) ** 2)
    # A band much narrower than the grid falls between two of its points.
    response[np.argmin(np.abs(WAVELENGTHS - band.centre))] += 1e-12
    response /= response.sum()
    return response


@lru_cache(maxsize=32)
def band_responses(bands: BandSet) -> NDArray[np.float32]:
    """Reflectance of every material in every band.

    Args:
        bands: Bands with centre (and, where known, width) in µm; Gaussian responses are assumed.

    Returns:
        Reflectance of shape (len(MATERIALS), B), in the order of :data:`MATERIALS`.

    Raises:
        BandError: If a band's wavelength is unknown or outside 0.4 to 2.5 µm.
    """
    responses = np.stack([_response(band, bands.sensor) for band in bands], axis=1)
    return (np.stack(list(MATERIALS.values())) @ responses).astype(np.float32)


@lru_cache(maxsize=32)
def vapour_depths(bands: BandSet) -> NDArray[np.float32]:
    """Optical depth of average atmospheric water vapour in every band, (B,).

    Small in the windows, about 0.5 at 0.945 µm, and so large at 1.375 µm that nothing
    of the ground is seen there.
    """
    features = ((0.72, 0.012, 0.05), (0.82, 0.015, 0.06), (0.94, 0.025, 0.55), (1.13, 0.03, 0.8))
    depth = sum(d * np.exp(-(((WAVELENGTHS - c) / w) ** 2)) for c, w, d in features)
    for centre, width in ((1.38, 0.045), (1.88, 0.07)):
        depth = depth + 6.0 * np.exp(-(((WAVELENGTHS - centre) / width) ** 4))
    responses = np.stack([_response(band, bands.sensor) for band in bands], axis=1)
    # Transmissions average over a band; depths do not.
    return np.asarray(-np.log(np.exp(-np.asarray(depth)) @ responses), np.float32)


# float32 throughout; numpy's annotations widen it in places.
Array = NDArray[np.floating[Any]]
Mix = Mapping[str, float | Array]
Attributes = dict[str, float | str]

# Side of the ground that a chip shows, metres: 3 m pixels at 64 px, like PlanetScope's.
EXTENT = 192.0
HALF = EXTENT / 2


@dataclass(frozen=True)
class Window:
    """A rectangle of the canvas: its slices, and the metres of its pixel centres.

    Attributes:
        rows: Slice of rows.
        cols: Slice of columns.
        x: Eastings (1, w).
        y: Southings (h, 1).
    """

    rows: slice
    cols: slice
    x: Array
    y: Array

    def turned(self, x: float, y: float, angle: float) -> tuple[Array, Array]:
        """Coordinates (h, w) along and across a direction, from an origin; angle in radians."""
        cos, sin = math.cos(angle), math.sin(angle)
        east, south = self.x - x, self.y - y
        return east * cos + south * sin, south * cos - east * sin

    def distance(self, x: float, y: float) -> Array:
        """Distance (h, w) to a point, metres."""
        gap: Array = np.hypot(self.x - x, self.y - y)
        return gap


class Canvas:
    """Material fractions, brightness and height of every pixel.

    Args:
        size: Pixels a side.

    Attributes:
        pixel: Side of a pixel, metres.
        full: The window of the whole canvas.
        tone: Brightness relative to the material's spectrum (size, size).
        height: Height above the plain in metres (size, size).
    """

    def __init__(self, size: int) -> None:
        self.size, self.pixel = size, EXTENT / size
        self._centres = ((np.arange(size) + 0.5) * self.pixel - HALF).astype(np.float32)
        self.full = Window(slice(None), slice(None), self._centres[None, :], self._centres[:, None])
        self.tone: Array = np.ones((size, size), np.float32)
        self.height: Array = np.zeros((size, size), np.float32)
        self._fractions: Array = np.zeros((len(MATERIALS), size, size), np.float32)
        self._planes: dict[str, int] = {}

    @property
    def materials(self) -> tuple[str, ...]:
        """Names of the materials painted so far, in the order of :attr:`fractions`."""
        return tuple(self._planes)

    @property
    def fractions(self) -> Array:
        """Share of each material in each pixel (M, size, size); sums to one once the ground is laid."""
        return self._fractions[: len(self._planes)]

    def around(self, x: float, y: float, radius: float) -> Window | None:
        """The window that holds a disc, None if it lies outside."""
        reach = radius + self.pixel
        left, right = self._span(x - reach, x + reach)
        top, bottom = self._span(y - reach, y + reach)
        if left >= right or top >= bottom:
            return None
        rows, cols = slice(top, bottom), slice(left, right)
        return Window(rows, cols, self._centres[None, cols], self._centres[rows, None])

    def _span(self, low: float, high: float) -> tuple[int, int]:
        first, last = math.floor((low + HALF) / self.pixel), math.ceil((high + HALF) / self.pixel)
        return max(first, 0), min(last, self.size)

    def inside(self, distance: Array) -> Array:
        """Share of each pixel within a shape, from the signed distance to its edge in metres."""
        return _unit(0.5 - distance / self.pixel)

    def line(self, distance: Array, width: float) -> Array:
        """Share of each pixel within a line, from the distance to its middle; right for lines below a pixel too."""
        half, reach = width / 2, self.pixel / 2
        covered = np.minimum(distance + reach, half) - np.maximum(distance - reach, -half)
        return _unit(covered / self.pixel)

    def stripes(self, along: Array, period: float, width: float) -> Array:
        """Share of each pixel within parallel lines a period apart."""
        offset = np.abs(along - np.round(along / period) * period)
        covered = self.line(offset, width)
        # Stripes finer than two pixels melt into their mean instead of beating with the grid.
        blur = min(max(2.0 * self.pixel / period - 0.75, 0.0), 1.0)
        return covered * (1.0 - blur) + blur * (width / period)

    def paint(
        self,
        material: str | Mix,
        alpha: float | Array,
        at: Window | None = None,
        tone: float | Array = 1.0,
        height: float | Array | None = None,
    ) -> None:
        """Cover a share of each pixel with a material or a mix of materials.

        Args:
            material: Its name, or weights that sum to one, each a number or (h, w).
            alpha: Share covered, a number or (h, w).
            at: Where; None for the whole canvas.
            tone: Brightness relative to the spectrum.
            height: Height in metres; None keeps the height below.
        """
        at = at or self.full
        mix: Mix = {material: 1.0} if isinstance(material, str) else material
        planes = {self._plane(name): weight for name, weight in mix.items()}
        here = (at.rows, at.cols)
        keep = 1.0 - alpha
        below = self._fractions[: len(self._planes), at.rows, at.cols]
        below *= keep
        for plane, weight in planes.items():
            below[plane] += alpha * weight
        self.tone[here] = self.tone[here] * keep + alpha * tone
        if height is not None:
            self.height[here] = self.height[here] * keep + alpha * height

    def _plane(self, material: str) -> int:
        return self._planes.setdefault(material, len(self._planes))


@dataclass
class Scene:
    """A canvas, the season it is seen in, and what is true of it.

    Attributes:
        canvas: What is painted on.
        rng: Source of every random choice about the geometry.
        season: Name of the season.
        green: How green the grass is, 0 (dry or dormant) to 1 (lush).
        leaves: How leafy broadleaved trees are, 0 to 1.
        autumn: How far their leaves have turned, 0 to 1.
        attributes: Facts about the scene, for captions.
    """

    canvas: Canvas
    rng: np.random.Generator
    season: str
    green: float
    leaves: float
    autumn: float
    attributes: Attributes = field(default_factory=dict)

    def noise(self, cells: tuple[int, ...] = (4, 8, 16, 32), gain: float = 0.65) -> Array:
        """Smooth random field (size, size), about zero mean and unit deviation.

        The same at any number of pixels, since it is drawn on lattices.

        Args:
            cells: Lattice cells across the chip, an octave each.
            gain: Amplitude of an octave relative to the one before.
        """
        total: Array = np.zeros((self.canvas.size, self.canvas.size), np.float32)
        power = 0.0
        for octave, count in enumerate(cells):
            lattice = self.rng.standard_normal((count + 3, count + 3), np.float32)
            weights = _spline(self.canvas.size, count)
            total += gain**octave * (weights @ lattice @ weights.T)
            power += gain ** (2 * octave)
        return total / math.sqrt(power)


def _unit(share: Array) -> Array:
    """Clip to 0..1; on the small windows of houses and cars several times faster than numpy's clip."""
    clipped: Array = np.minimum(np.maximum(share, 0.0), 1.0)
    return clipped


@lru_cache(maxsize=64)
def _spline(size: int, count: int) -> Array:
    """Weights (size, count + 3) of a uniform cubic B-spline, scaled so that white noise keeps its variance."""
    position = (np.arange(size) + 0.5) / size * count
    cell = np.minimum(position.astype(int), count - 1)
    t = position - cell
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    weights = np.zeros((size, count + 3))
    for k in range(4):
        weights[np.arange(size), cell + k] = basis[:, k]
    return np.asarray(weights / math.sqrt(np.square(weights).sum(axis=1).mean()), np.float32)
