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

from rsdistill.datasets.synthetic.spectra import MATERIALS

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
