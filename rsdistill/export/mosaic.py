"""Virtual mosaics: one VRT a class and one of all classes, with paths relative to themselves."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from rsdistill.errors import storage_errors
from rsdistill.export.geotiff import colour_interpretation
from rsdistill.export.metadata import ALL, MOSAICS, Facts, Tile
from rsdistill.utils.io import complete_file

Box = tuple[float, float, float, float]
_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}
_MASK = 0


@dataclass(frozen=True)
class Mosaic:
    """One virtual mosaic.

    Attributes:
        name: File name without ending: that of the class's folder.
        title: What a map's legend calls it.
        path: Path below the exported folder, with forward slashes.
        box: Left, bottom, right, top in the CRS of the tiles.
    """

    name: str
    title: str
    path: str
    box: Box


@dataclass(frozen=True)
class _Source:
    """A raster that goes into a mosaic: its path below the exported folder, and where it lies."""

    path: str
    box: Box


def write_mosaics(folder: Path, tiles: Sequence[Tile], facts: Facts) -> tuple[Mosaic, ...]:
    """Write the mosaics; none where tiles lie in several CRSs or are rotated, which a VRT cannot hold.

    Args:
        folder: The exported folder.
        tiles: The tiles.
        facts: What they share.

    Returns:
        The mosaics of the classes, in their order, and last the one of all tiles.

    Raises:
        StorageError: If the folder cannot be written.
    """
    if not _can_be_joined(tiles):
        return ()
    spot = tiles[0].spot
    pixel = spot.transform[0]
    by_class: dict[int, list[Tile]] = {}
    for tile in tiles:
        by_class.setdefault(tile.label, []).append(tile)
    with storage_errors(folder / MOSAICS):
        (folder / MOSAICS).mkdir(exist_ok=True)
        mosaics = []
        for _, members in sorted(by_class.items()):
            sources = [_Source(tile.path, _box(tile, facts.size)) for tile in members]
            name = members[0].path.split("/")[1]
            mosaics.append(_write(folder, name, members[0].class_name, sources, facts, spot.wkt, pixel))
        parts = [_Source(mosaic.path, mosaic.box) for mosaic in mosaics]
        mosaics.append(_write(folder, ALL, "all tiles", parts, facts, spot.wkt, pixel))
    return tuple(mosaics)


def needs_mask(facts: Facts) -> bool:
    """Whether the gaps of a mosaic are told by a mask, because tiles have no nodata value."""
    return facts.encoding.nodata is None


def _can_be_joined(tiles: Sequence[Tile]) -> bool:
    first = tiles[0].spot
    return all(
        tile.spot.wkt == first.wkt
        and tile.spot.transform[:2] == first.transform[:2]
        and tile.spot.transform[3:5] == first.transform[3:5]
        for tile in tiles
    ) and (first.transform[1] == first.transform[3] == 0.0 and first.transform[0] == -first.transform[4])


def _box(tile: Tile, size: tuple[int, int]) -> Box:
    height, width = size
    pixel, _, left, _, _, top = tile.spot.transform
    return (left, top - height * pixel, left + width * pixel, top)


def _write(
    folder: Path, name: str, title: str, sources: Sequence[_Source], facts: Facts, wkt: str, pixel: float
) -> Mosaic:
    boxes = [source.box for source in sources]
    left, bottom = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, top = max(box[2] for box in boxes), max(box[3] for box in boxes)
    width, height = round((right - left) / pixel), round((top - bottom) / pixel)
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    ET.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = wkt
    ET.SubElement(root, "GeoTransform").text = ", ".join(map(repr, (left, pixel, 0.0, top, 0.0, -pixel)))
    meanings = colour_interpretation(facts.bands)
    for number, (band, meaning) in enumerate(zip(facts.bands, meanings, strict=True), start=1):
        element = ET.SubElement(root, "VRTRasterBand", dataType=_GDAL_TYPES[facts.encoding.dtype], band=str(number))
        ET.SubElement(element, "Description").text = band.name
        if facts.encoding.nodata is not None:
            ET.SubElement(element, "NoDataValue").text = _number(facts.encoding.nodata)
        ET.SubElement(element, "ColorInterp").text = meaning.name.capitalize()
        ET.SubElement(element, "Scale").text = repr(facts.encoding.scale)
        ET.SubElement(element, "Offset").text = repr(facts.encoding.offset)
        _add_sources(element, sources, number, (left, top, pixel))
    if needs_mask(facts):
        mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        _add_sources(mask, sources, _MASK, (left, top, pixel))
    ET.indent(root)
    path = folder / MOSAICS / f"{name}.vrt"
    with complete_file(path) as partial:
        partial.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")
    return Mosaic(name, title, f"{MOSAICS}/{path.name}", (left, bottom, right, top))


def _add_sources(band: ET.Element, sources: Sequence[_Source], number: int, frame: tuple[float, float, float]) -> None:
    left, top, pixel = frame
    for item in sources:
        width = str(round((item.box[2] - item.box[0]) / pixel))
        height = str(round((item.box[3] - item.box[1]) / pixel))
        column, row = str(round((item.box[0] - left) / pixel)), str(round((top - item.box[3]) / pixel))
        source = ET.SubElement(band, "SimpleSource")
        ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = os.path.relpath(item.path, MOSAICS).replace(
            os.sep, "/"
        )
        ET.SubElement(source, "SourceBand").text = "mask,1" if number == _MASK else str(number)
        ET.SubElement(source, "SrcRect", xOff="0", yOff="0", xSize=width, ySize=height)
        ET.SubElement(source, "DstRect", xOff=column, yOff=row, xSize=width, ySize=height)


def _number(value: float) -> str:
    return "nan" if math.isnan(value) else repr(value)
