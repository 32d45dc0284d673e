"""QGIS styles as XML, made without QGIS: tiles by wavelength, footprints by class with labels."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from rsdistill.bands import FALSE_COLOUR, NATURAL_COLOUR, BandSet
from rsdistill.distilled import DistilledSet
from rsdistill.imaging.composites import stretch_limits

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


DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
# The oldest QGIS that the files are written for; later ones read them as well.
QGIS_VERSION = "3.22.0"
# Class and slot, with the audit's verdict where it is not a pass.
LABEL = (
    '"class_name" || \' \' || "slot" || '
    "CASE WHEN \"verdict\" IN ('review', 'block') THEN ' (' || \"verdict\" || ')' ELSE '' END"
)
# Height of a label as a share of a tile's width, and width of a label in letters of that height.
_LABEL_HEIGHT, _LABEL_WIDTH = 0.1, 1.6
_GOLDEN = 0.618033988749895


def raster_style(composite: Composite) -> ET.Element:
    """Style of a tile or mosaic that shows one composite.

    Args:
        composite: Bands and limits, in physical values as QGIS reads scale and offset.
    """
    root = _root()
    add_raster_pipe(root, composite)
    return root


def add_raster_pipe(layer: ET.Element, composite: Composite, alpha_band: int | None = None) -> None:
    """Put a composite's renderer into a style or a project's layer.

    Args:
        layer: The style or layer.
        composite: Bands and limits, in physical values as QGIS reads scale and offset.
        alpha_band: Number of the band that says where there is no image, None if there is none.
    """
    pipe = ET.SubElement(layer, "pipe")
    numbers = [str(position + 1) for position in composite.bands]
    if len(set(numbers)) == 1:
        attributes = {"type": "singlebandgray", "grayBand": numbers[0], "gradient": "BlackToWhite"}
        enhanced = ["contrastEnhancement"]
    else:
        bands = zip(("redBand", "greenBand", "blueBand"), numbers, strict=True)
        attributes = {"type": "multibandcolor", **dict(bands)}
        enhanced = [f"{colour}ContrastEnhancement" for colour in ("red", "green", "blue")]
    attributes |= {"alphaBand": str(alpha_band or -1), "opacity": "1"}
    renderer = ET.SubElement(pipe, "rasterrenderer", attributes)
    for name in enhanced:
        _contrast(renderer, name, composite)
    # Pixels are shown as they are: smoothing would hide what was generated.
    ET.SubElement(pipe, "rasterresampler", maxOversampling="2")


def footprint_style(classes: Sequence[str], side: float) -> ET.Element:
    """Style of the tile index: an outline colour a class, and a label.

    Args:
        classes: Readable names of the classes, in order.
        side: Width of a tile in map units; labels are no wider.
    """
    root = _root({"labelsEnabled": "1"})
    add_footprint_style(root, classes, side)
    return root


def add_footprint_style(layer: ET.Element, classes: Sequence[str], side: float) -> None:
    """Put the categories and labels of the tile index into a style or a project's layer."""
    renderer = ET.SubElement(
        layer, "renderer-v2", type="categorizedSymbol", attr="class_name", symbollevels="0", enableorderby="0"
    )
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    for number, name in enumerate([*classes, ""]):
        label = name or "other (renamed classes)"
        ET.SubElement(categories, "category", render="true", symbol=str(number), value=name, label=label)
        _outline(symbols, str(number), class_colour(number) if name else (128, 128, 128))
    _labels(layer, side * min(_LABEL_HEIGHT, _LABEL_WIDTH / (3 + max(map(len, classes), default=0))))


def class_colour(number: int) -> tuple[int, int, int]:
    """A colour for the n-th class: neighbours differ much, however many there are."""
    red, green, blue = colorsys.hsv_to_rgb((0.05 + number * _GOLDEN) % 1.0, 0.85, 0.95 if number % 2 else 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def to_text(root: ET.Element) -> str:
    """A QGIS document as text."""
    ET.indent(root)
    return DOCTYPE + ET.tostring(root, encoding="unicode") + "\n"


def _root(attributes: dict[str, str] | None = None) -> ET.Element:
    return ET.Element("qgis", {"version": QGIS_VERSION, **(attributes or {})})


def _contrast(renderer: ET.Element, name: str, composite: Composite) -> None:
    element = ET.SubElement(renderer, name)
    ET.SubElement(element, "minValue").text = repr(composite.low)
    ET.SubElement(element, "maxValue").text = repr(composite.high)
    ET.SubElement(element, "algorithm").text = "StretchToMinimumMaximum"


def _outline(parent: ET.Element, name: str, colour: tuple[int, int, int]) -> None:
    symbol = ET.SubElement(parent, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1")
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0", "locked": "0"})
    rgb = ",".join(map(str, colour))
    _properties(
        layer,
        {
            "color": f"{rgb},0",
            "style": "no",
            "outline_color": f"{rgb},255",
            "outline_style": "solid",
            "outline_width": "0.8",
            "outline_width_unit": "MM",
            "joinstyle": "miter",
        },
    )


def _properties(layer: ET.Element, values: dict[str, str]) -> None:
    """Symbol properties in the form of QGIS 3.22 and the older one, which other readers know."""
    options = ET.SubElement(layer, "Option", type="Map")
    for key, value in values.items():
        ET.SubElement(options, "Option", name=key, value=value, type="QString")
    for key, value in values.items():
        ET.SubElement(layer, "prop", k=key, v=value)


def _labels(layer: ET.Element, size: float) -> None:
    """Labels as large as the map is zoomed, so that they stay within their tiles."""
    labeling = ET.SubElement(layer, "labeling", type="simple")
    settings = ET.SubElement(labeling, "settings", calloutType="simple")
    text: dict[str, Any] = {
        "fieldName": LABEL,
        "isExpression": "1",
        "fontFamily": "Sans Serif",
        "fontSize": repr(size),
        "fontSizeUnit": "MapUnit",
        "textColor": "20,20,20,255",
        "textOpacity": "1",
    }
    style = ET.SubElement(settings, "text-style", text)
    ET.SubElement(
        style,
        "text-buffer",
        bufferDraw="1",
        bufferSize=repr(0.12 * size),
        bufferSizeUnits="MapUnit",
        bufferColor="255,255,255,255",
        bufferOpacity="1",
    )
    # A point in the tile's upper left corner, the label below and right of it: it hides least of the image.
    ET.SubElement(
        settings,
        "placement",
        placement="1",
        geometryGeneratorEnabled="1",
        geometryGenerator="make_point(x_min($geometry), y_max($geometry))",
        geometryGeneratorType="PointGeometry",
        quadOffset="8",
        xOffset=repr(0.3 * size),
        yOffset=repr(0.3 * size),
        offsetUnits="MapUnit",
    )
    ET.SubElement(settings, "rendering", drawLabels="1", displayAll="0", scaleVisibility="0", obstacle="0")
