"""What shows all tiles at once: an index of footprints that brings its own style, and virtual mosaics.

There is one VRT a class and one of all classes, with paths relative to themselves.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsdistill.errors import ExportError, storage_errors
from rsdistill.export.georef import REAL_PLACE, footprint
from rsdistill.export.geotiff import Written, colour_interpretation
from rsdistill.export.metadata import ALL, INDEX, INDEX_LAYER, MOSAICS, Facts, Tile, fill_xml
from rsdistill.export.qgis_style import footprint_style
from rsdistill.utils.io import complete_file

if TYPE_CHECKING:
    import geopandas

_STYLES_TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT, f_table_schema TEXT, f_table_name TEXT, f_geometry_column TEXT,
    styleName TEXT, styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN,
    description TEXT, owner TEXT, ui TEXT, update_time DATETIME
)"""


def tile_frame(tiles: Sequence[Tile], written: Sequence[Written], facts: Facts) -> geopandas.GeoDataFrame:
    """Footprints of all tiles with what is known of each.

    Tiles at real places may lie in several CRSs; their footprints are then given in WGS 84.
    """
    import geopandas
    import pandas as pd
    from pyproj import CRS
    from shapely.geometry import Polygon

    source = facts.source_type.rsplit("/", 1)[-1]
    columns = {
        "tile": [tile.name for tile in tiles],
        "class_key": [tile.class_key for tile in tiles],
        "class_name": [tile.class_name for tile in tiles],
        "sector": pd.array([tile.sector for tile in tiles], dtype="string"),
        "label": [tile.label for tile in tiles],
        "slot": [tile.slot for tile in tiles],
        "seed": pd.array([facts.seed] * len(tiles), dtype="Int64"),
        "score": pd.array([tile.score for tile in tiles], dtype="Float64"),
        "verdict": pd.array([tile.verdict for tile in tiles], dtype="string"),
        "caption": [tile.caption for tile in tiles],
        "source": [source] * len(tiles),
        "licence": [facts.licence] * len(tiles),
        "path": [tile.path for tile in tiles],
        "sha256": [item.sha256 for item in written],
    }
    polygons = [Polygon(footprint(tile.spot, facts.size)) for tile in tiles]
    systems = {tile.spot.wkt for tile in tiles}
    if facts.georeferencing != REAL_PLACE or len(systems) == 1:
        return geopandas.GeoDataFrame(columns, geometry=polygons, crs=CRS.from_wkt(systems.pop()))
    by_system = geopandas.GeoSeries(index=range(len(tiles)), crs="EPSG:4326")
    for wkt in systems:
        members = [number for number, tile in enumerate(tiles) if tile.spot.wkt == wkt]
        part = geopandas.GeoSeries([polygons[n] for n in members], index=members, crs=CRS.from_wkt(wkt))
        by_system.loc[members] = part.to_crs("EPSG:4326")
    return geopandas.GeoDataFrame(columns, geometry=by_system)


def write_index(folder: Path, frame: geopandas.GeoDataFrame) -> None:
    """Write the frame of :func:`tile_frame` with its default style.

    Raises:
        ExportError: If the GeoPackage cannot be written.
        StorageError: If the folder cannot be written.
    """
    with complete_file(folder / INDEX) as partial:
        _write_geopackage(partial, frame)


def _write_geopackage(path: Path, frame: geopandas.GeoDataFrame) -> None:
    from pyogrio.errors import DataSourceError

    try:
        frame.to_file(path, layer=INDEX_LAYER, driver="GPKG", engine="pyogrio", geometry_name="geom", VERSION="1.3")
    except DataSourceError as error:
        raise ExportError(f"{path.parent / INDEX} cannot be written as GeoPackage ({error})") from error
    classes = frame.sort_values("label")["class_name"].drop_duplicates()
    left, _, right, _ = frame.geometry.iloc[0].bounds
    with closing(sqlite3.connect(path)) as database, database:
        _add_style(database, footprint_style(list(classes), right - left))


def _add_style(database: sqlite3.Connection, style: str) -> None:
    """Store the default style where QGIS looks for it.

    It goes in by SQL: asking QGIS to do it twice opens a dialog that waits for ever.
    """
    database.execute(_STYLES_TABLE)
    database.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
        "styleQML, styleSLD, useAsDefault, description) VALUES ('', '', ?, 'geom', 'classes', ?, '', 1, ?)",
        (INDEX_LAYER, style, "Outline a class, labelled with class and slot"),
    )
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES ('layer_styles', 'attributes', "
        "'layer_styles')"
    )


Box = tuple[float, float, float, float]
_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}


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


def write_mosaics(folder: Path, tiles: Sequence[Tile], facts: Facts) -> tuple[Mosaic, ...]:
    """Write the mosaics; none where tiles lie in several CRSs or are rotated, which a VRT cannot hold.

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
            sources = [(tile.path, _box(tile, facts.size)) for tile in members]
            name = members[0].path.split("/")[1]
            mosaics.append(_write(folder, name, members[0].class_name, sources, facts, spot.wkt, pixel))
        parts = [(mosaic.path, mosaic.box) for mosaic in mosaics]
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
    folder: Path, name: str, title: str, sources: Sequence[tuple[str, Box]], facts: Facts, wkt: str, pixel: float
) -> Mosaic:
    boxes = [box for _, box in sources]
    left, bottom = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, top = max(box[2] for box in boxes), max(box[3] for box in boxes)
    meanings = (meaning.name.capitalize() for meaning in colour_interpretation(facts.bands))
    text = fill_xml(
        "mosaic.vrt.j2",
        size=(round((right - left) / pixel), round((top - bottom) / pixel)),
        wkt=wkt,
        transform=(left, pixel, 0.0, top, 0.0, -pixel),
        dtype=_GDAL_TYPES[facts.encoding.dtype],
        encoding=facts.encoding,
        bands=[{"name": band.name, "meaning": meaning} for band, meaning in zip(facts.bands, meanings, strict=True)],
        sources=[
            {
                "path": os.path.relpath(source, MOSAICS).replace(os.sep, "/"),
                "width": round((box[2] - box[0]) / pixel),
                "height": round((box[3] - box[1]) / pixel),
                "column": round((box[0] - left) / pixel),
                "row": round((top - box[3]) / pixel),
            }
            for source, box in sources
        ],
    )
    path = folder / MOSAICS / f"{name}.vrt"
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Mosaic(name, title, f"{MOSAICS}/{path.name}", (left, bottom, right, top))
