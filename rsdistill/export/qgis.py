"""The QGIS project as XML, made without QGIS: relative paths, index on top, a group a class, a layout."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsdistill.export.georef import ENGINEERING, ENGINEERING_NAME, REAL_PLACE
from rsdistill.export.metadata import INDEX, INDEX_LAYER, PROJECT, Facts, Tile
from rsdistill.export.overview import Box, Mosaic, needs_mask
from rsdistill.export.qgis_style import Composite, footprint_values, qgis_document
from rsdistill.utils.io import complete_file

PROJECT_FILE = "project.qgs"
# Width over height of the map on the sheet.
_MAP_ASPECT = 207.0 / 160.0
# A fixed time keeps the archive the same for the same content.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def write_project(
    folder: Path, tiles: Sequence[Tile], facts: Facts, mosaics: Sequence[Mosaic], composites: Sequence[Composite]
) -> None:
    """Write the project.

    Args:
        folder: The exported folder.
        tiles: The tiles.
        facts: What they share.
        mosaics: From :func:`rsdistill.export.overview.write_mosaics`.
        composites: Natural colour first, then false colour where there is one.

    Raises:
        ExportError: If a name holds a character that XML has not.
        StorageError: If the folder cannot be written.
    """
    names = {tile.label: tile.class_name for tile in tiles}
    text = qgis_document(
        "project.qgs.j2",
        title=f"{'Synthetic' if facts.synthetic else 'Real'} tiles of {facts.dataset} ({facts.method})",
        notices=facts.notices,
        index_source=f"./{INDEX}|layername={INDEX_LAYER}",
        crs=_crs(tiles[0].spot.wkt if mosaics or facts.georeferencing != REAL_PLACE else "EPSG:4326", facts),
        mosaics=mosaics,
        composites=composites,
        # QGIS shows the mask of a mosaic as a band after the last.
        alpha_band=len(facts.bands) + 1 if needs_mask(facts) else -1,
        shown=_around(mosaics[-1].box) if mosaics else None,
        **footprint_values([names[label] for label in sorted(names)], facts.size[1] * facts.gsd),
    )
    with complete_file(folder / PROJECT) as partial, zipfile.ZipFile(partial, "w") as archive:
        entry = zipfile.ZipInfo(PROJECT_FILE, _ZIP_TIME)
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, text)


def _around(box: Box) -> Box:
    """What the map on the sheet shows: a box with a little air around it."""
    left, bottom, right, top = box
    width, height = 1.04 * (right - left), 1.04 * (top - bottom)
    width, height = max(width, height * _MAP_ASPECT), max(height, width / _MAP_ASPECT)
    x, y = (left + right) / 2, (bottom + top) / 2
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _crs(wkt: str, facts: Facts) -> dict[str, Any]:
    if facts.georeferencing == ENGINEERING:
        return {"wkt": wkt, "code": None, "name": ENGINEERING_NAME, "geographic": False}
    from pyproj import CRS

    crs = CRS.from_user_input(wkt)
    return {"wkt": crs.to_wkt(), "code": crs.to_epsg(), "name": crs.name, "geographic": crs.is_geographic}
