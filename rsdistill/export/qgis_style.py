"""QGIS styles as XML, made without QGIS: tiles by wavelength, footprints by class with labels."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsdistill.bands import FALSE_COLOUR, NATURAL_COLOUR
from rsdistill.distilled import DistilledSet
from rsdistill.export.metadata import fill_xml
from rsdistill.imaging.composites import stretch_limits

_MOST_TILES, _MOST_PIXELS = 256, 64
_TITLES = {"natural": "natural colour", "false": "false colour (near infrared as red)"}


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
    def grey(self) -> bool:
        """Whether one band is shown."""
        return len(set(self.bands)) == 1

    @property
    def title(self) -> str:
        """What a map's legend calls it."""
        return "grey" if self.grey else _TITLES[self.name]


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
    for name, wavelengths in (("natural", NATURAL_COLOUR), ("false", FALSE_COLOUR)):
        if name == "false" and not tiles.bands.has(wavelengths):
            continue
        low, high = stretch_limits(sample, tiles.bands, wavelengths)
        limits = (float(low.min()), float(high.max()))
        black, white = (value * tiles.bands.scale + tiles.bands.offset for value in limits)
        red, green, blue = tiles.bands.composite(wavelengths)
        result.append(Composite(name, (red, green, blue), black, _above(black, white)))
    return tuple(result)


def _above(low: float, high: float) -> float:
    """A white point that differs from the black one even where an image is flat."""
    return high if high > low else float(np.nextafter(low, np.inf)) + 1e-6


_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
# The oldest QGIS that the files are written for; later ones read them as well.
_QGIS_VERSION = "3.22.0"
# Height of a label as a share of a tile's width, and width of a label in letters of that height.
_LABEL_HEIGHT, _LABEL_WIDTH = 0.1, 1.6
_GOLDEN = 0.618033988749895


def raster_style(composite: Composite) -> str:
    """Style of a tile or mosaic that shows one composite.

    Args:
        composite: Bands and limits, in physical values as QGIS reads scale and offset.
    """
    return qgis_document("raster.qml.j2", composite=composite)


def footprint_style(classes: Sequence[str], side: float) -> str:
    """Style of the tile index: an outline colour a class, and a label.

    Args:
        classes: Readable names of the classes, in order.
        side: Width of a tile in map units; labels are no wider.
    """
    return qgis_document("footprints.qml.j2", **footprint_values(classes, side))


def footprint_values(classes: Sequence[str], side: float) -> dict[str, Any]:
    """What a template needs for the categories and labels of the tile index; see :func:`footprint_style`."""
    known = [{"value": name, "label": name, "rgb": _class_colour(n)} for n, name in enumerate(classes)]
    other = {"value": "", "label": "other (renamed classes)", "rgb": "128,128,128"}
    longest = 3 + max(map(len, classes), default=0)
    return {"categories": [*known, other], "label_size": side * min(_LABEL_HEIGHT, _LABEL_WIDTH / longest)}


def qgis_document(template: str, **values: Any) -> str:
    """A style or project from a template, as text; raises as :func:`fill_xml`."""
    return _DOCTYPE + fill_xml(template, version=_QGIS_VERSION, **values)


def _class_colour(number: int) -> str:
    """Red, green and blue of the n-th class: neighbours differ much, however many there are."""
    colour = colorsys.hsv_to_rgb((0.05 + number * _GOLDEN) % 1.0, 0.85, 0.95 if number % 2 else 0.75)
    return ",".join(str(round(255 * part)) for part in colour)
