"""The ground as fractions of materials a pixel, with relief: what a scene is painted on.

All coordinates are metres from the middle of the chip, x to the east and y to the
south. A scene covers the same ground at any number of pixels, and every edge is
antialiased by the share of the pixel that it covers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import Band, BandSet
from rsdistill.errors import BandError, OptionError
from rsdistill.utils.io import YamlKind, read_yaml

Spectrum = NDArray[np.float64]

# Micrometres, a step of 5 nm.
WAVELENGTHS: Spectrum = np.linspace(0.4, 2.5, 421)
_TABLE = YamlKind("table of materials", OptionError, "install the package again", "'knots:' and 'materials:'")
_GIVEN = read_yaml(Path(__file__).with_name("materials.yaml"), _TABLE).values
# Width taken for a band that states none, in micrometres.
_NARROW = 0.010


def _dip(centre: float, width: float, depth: float) -> Spectrum:
    """Factor of a Gaussian absorption feature; centre and width in µm."""
    factor: Spectrum = 1.0 - depth * np.exp(-(((WAVELENGTHS - centre) / width) ** 2))
    return factor


def _surface(percent: Sequence[float], dips: Sequence[Sequence[float]] = ()) -> Spectrum:
    """Straight lines between reflectances in per cent at the knots, with absorption features on top."""
    spectrum = np.interp(WAVELENGTHS, _GIVEN["knots"], percent) / 100.0
    for centre, width, depth in dips:
        spectrum = spectrum * _dip(centre, width, depth)
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


MATERIALS: dict[str, Spectrum] = {
    name: _surface(**given) if "percent" in given else _plant(**given) for name, given in _GIVEN["materials"].items()
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
        planes = {self._planes.setdefault(name, len(self._planes)): weight for name, weight in mix.items()}
        here = (at.rows, at.cols)
        keep = 1.0 - alpha
        below = self._fractions[: len(self._planes), at.rows, at.cols]
        below *= keep
        for plane, weight in planes.items():
            below[plane] += alpha * weight
        self.tone[here] = self.tone[here] * keep + alpha * tone
        if height is not None:
            self.height[here] = self.height[here] * keep + alpha * height


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
