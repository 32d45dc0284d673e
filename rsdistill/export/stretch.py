"""Composites and contrast for display: bands by wavelength, one stretch for the whole set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsdistill.bands import FALSE_COLOUR, NATURAL_COLOUR, BandSet
from rsdistill.composites import stretch_limits
from rsdistill.distilled import DistilledSet

_MOST_TILES, _MOST_PIXELS = 256, 64
TITLES = {"natural": "natural colour", "false": "false colour (near infrared as red)"}


@dataclass(frozen=True)
class Composite:
    """Three bands shown as red, green and blue.

    Attributes:
        name: ``natural`` or ``false``.
        bands: Positions of the bands shown as red, green and blue; three times the same for grey.
        low: Physical value shown black.
        high: Physical value shown at full brightness.
    """

    name: str
    bands: tuple[int, int, int]
    low: float
    high: float

    @property
    def title(self) -> str:
        """What a map's legend calls it."""
        return "grey" if len(set(self.bands)) == 1 else TITLES[self.name]


def choose_composites(tiles: DistilledSet) -> tuple[Composite, ...]:
    """Natural colour, and false colour where the set has near infrared, stretched alike for all tiles.

    Limits come from a sample of tiles and pixels, so that large sets need no more memory.

    Args:
        tiles: The set.
    """
    every = max(1, -(-len(tiles) // _MOST_TILES))
    step = max(1, max(tiles.image.shape[2:]) // _MOST_PIXELS)
    sample = tiles.image[::every, :, ::step, ::step]
    result = []
    for name, wavelengths in _wavelengths(tiles.bands):
        low, high = stretch_limits(sample, tiles.bands, wavelengths)
        limits = (float(low.min()), float(high.max()))
        black, white = (value * tiles.bands.scale + tiles.bands.offset for value in limits)
        red, green, blue = tiles.bands.composite(wavelengths)
        result.append(Composite(name, (red, green, blue), black, _above(black, white)))
    return tuple(result)


def _wavelengths(bands: BandSet) -> list[tuple[str, tuple[float, float, float]]]:
    chosen = [("natural", NATURAL_COLOUR)]
    return [*chosen, ("false", FALSE_COLOUR)] if bands.has(FALSE_COLOUR) else chosen


def _above(low: float, high: float) -> float:
    """A white point that differs from the black one even where an image is flat."""
    return high if high > low else float(np.nextafter(low, np.inf)) + 1e-6
