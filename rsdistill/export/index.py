"""The tile index: a GeoPackage of footprints that brings its own style."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rsdistill.errors import ExportError
from rsdistill.export.georef import REAL_PLACE, footprint
from rsdistill.export.geotiff import Written
from rsdistill.export.metadata import INDEX, INDEX_LAYER, Facts, Tile
from rsdistill.export.qgis_style import footprint_style, to_text
from rsdistill.utils.io import complete_file

if TYPE_CHECKING:
    import geopandas

COLUMNS = (
    "tile", "class_key", "class_name", "sector", "label", "slot", "seed", "score", "verdict", "caption", "source",
    "licence", "path", "sha256",
)  # fmt: skip
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

    Args:
        tiles: The tiles.
        written: What was written for each.
        facts: What they share.

    Returns:
        A frame with the columns :data:`COLUMNS` and a polygon a tile.
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
    """Write the index with its default style.

    Args:
        folder: The exported folder.
        frame: From :func:`tile_frame`.

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
        _add_style(database, to_text(footprint_style(list(classes), right - left)))


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
