"""Check an exported folder: everything that the export promises, without torch, and without writing."""

from __future__ import annotations

import json
import os
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from rsdistill.errors import ArtifactError
from rsdistill.export.geotiff import quiet_gdal
from rsdistill.export.metadata import (
    GEOPARQUET,
    INDEX,
    INDEX_LAYER,
    MANIFEST,
    NON_COMMERCIAL_NOTICE,
    PROJECT,
    README,
    STAC,
    TILES,
    is_non_commercial,
)
from rsdistill.export.qgis import PROJECT_FILE
from rsdistill.export.stac import CATALOG, COLLECTION, GENERATOR, ITEMS
from rsdistill.export.stac_schemas import check_stac
from rsdistill.export.tile_validation import Expected, Fault, check_tile, read_expected
from rsdistill.utils.io import PARTIAL
from rsdistill.utils.provenance import file_digest


def check_files(folder: Path, expected: Expected) -> Iterator[Fault]:
    """Texts that were changed, tiles that no one listed, and what a broken-off write left behind."""
    for name, checksum in expected.files.items():
        path = folder / name
        if not path.is_file():
            yield Fault(name, "is missing")
        elif file_digest(path) != checksum:
            yield Fault(name, "checksum differs from the manifest: the file was changed")
    licence, readme = expected.facts.licence, folder / README
    if is_non_commercial(licence) and readme.is_file():
        told = " ".join(readme.read_text(encoding="utf-8", errors="replace").split())
        if NON_COMMERCIAL_NOTICE not in told:
            yield Fault(README, "does not say that use is limited to non-commercial purposes")
    if expected.geoparquet and not (folder / GEOPARQUET).is_file():
        yield Fault(GEOPARQUET, "is missing")
    listed = {listing["path"] for listing in expected.tiles}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(PARTIAL):
            yield Fault(name, "is left over from a write that was cut off")
        elif name.startswith(f"{TILES}/") and path.suffix.lower() in (".tif", ".tiff") and name not in listed:
            yield Fault(name, "is an extra tile that the manifest does not list")


def check_index(folder: Path, expected: Expected) -> Iterator[Fault]:
    """The GeoPackage: a row a tile that says the same as the manifest, relative paths, a default style."""
    path = folder / INDEX
    if not path.is_file():
        yield Fault(INDEX, "is missing")
        return
    try:
        frame, style = _read_index(path)
    except Exception as error:  # GDAL and sqlite have many ways to say that a file is no GeoPackage
        yield Fault(INDEX, f"cannot be read as GeoPackage ({error})")
        return
    if not style:
        yield Fault(INDEX, "has no default style")
    wanted = {listing["name"]: listing for listing in expected.tiles}
    for row in frame.to_dict("records"):
        listing = wanted.pop(row["tile"], None)
        if listing is None:
            yield Fault(INDEX, f"lists tile {row['tile']}, which the manifest does not")
            continue
        yield from (Fault(INDEX, f"tile {row['tile']}: {what}") for what in _check_row(row, listing, expected))
    for name in wanted:
        yield Fault(INDEX, f"does not list tile {name}")


def check_mosaics(folder: Path, expected: Expected) -> Iterator[Fault]:
    """The VRTs: there, readable, with relative paths to files that are there."""
    for name in expected.mosaics:
        path = folder / name
        try:
            root = ET.parse(path).getroot()
        except FileNotFoundError:
            yield Fault(name, "is missing")
            continue
        except (ET.ParseError, OSError) as error:
            yield Fault(name, f"cannot be read as VRT ({error})")
            continue
        bands = [element.findtext("Description") for element in root.findall("VRTRasterBand")]
        if bands != list(expected.facts.bands.names):
            yield Fault(name, f"bands are {bands}, expected {list(expected.facts.bands.names)}")
        sources = {(item.text or "", item.get("relativeToVRT")) for item in root.iter("SourceFilename")}
        for source, relative in sorted(sources, key=str):
            if relative != "1" or is_absolute(source):
                yield Fault(name, f"absolute path {source}: the folder could not be moved")
            elif not (path.parent / source).is_file():
                yield Fault(name, f"source {source} is missing")


def check_catalog(folder: Path, expected: Expected) -> Iterator[Fault]:
    """The STAC catalog: valid by every schema, links that lead somewhere, the same facts as the tiles."""
    names = [CATALOG, COLLECTION] + ([GENERATOR] if expected.facts.synthetic else [])
    for name in names:
        yield from _check_stac_file(folder, f"{STAC}/{name}")[1]
    known = set()
    for listing in expected.tiles:
        _, parent, tile = str(listing["path"]).split("/")
        name = f"{STAC}/{ITEMS}/{parent}/{Path(tile).stem}.json"
        known.add(name)
        item, faults = _check_stac_file(folder, name)
        yield from faults
        if item is not None:
            yield from (Fault(name, what) for what in _check_item(item, listing, expected))
    for path in sorted((folder / STAC / ITEMS).rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        if name not in known:
            yield Fault(name, "is an extra item that belongs to no tile")


def check_project(folder: Path, expected: Expected) -> Iterator[Fault]:
    """The QGIS project: readable, relative paths to files that are there, index and layout inside."""
    try:
        with zipfile.ZipFile(folder / PROJECT) as archive:
            root = ET.fromstring(archive.read(PROJECT_FILE))
    except FileNotFoundError:
        yield Fault(PROJECT, "is missing")
        return
    except (zipfile.BadZipFile, KeyError, ET.ParseError, OSError) as error:
        yield Fault(PROJECT, f"cannot be read as QGIS project ({error})")
        return
    sources = [element.text or "" for element in root.iter("datasource")]
    sources += [element.get("source", "") for element in root.iter("layer-tree-layer") if element.get("source")]
    for source in sorted({source.split("|")[0] for source in sources}):
        if is_absolute(source):
            yield Fault(PROJECT, f"absolute path {source}: the folder could not be moved")
        elif not (folder / source).is_file():
            yield Fault(PROJECT, f"layer source {source} is missing")
    if not any(source.split("|")[0].endswith(INDEX) for source in sources):
        yield Fault(PROJECT, "does not show the tile index")
    if root.findtext("properties/Paths/Absolute") != "false":
        yield Fault(PROJECT, "is set to save absolute paths")
    if expected.mosaics and root.find("Layouts/Layout") is None:
        yield Fault(PROJECT, "has no print layout")


def is_absolute(path: str) -> bool:
    """Whether a path is absolute on any system, or an address."""
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute() or "://" in path


def _read_index(path: Path) -> tuple[Any, str | None]:
    import geopandas

    frame = geopandas.read_file(path, layer=INDEX_LAYER, engine="pyogrio")
    frame["tile"], frame["path"]
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        if "layer_styles" not in tables:
            return frame, None
        query = "SELECT styleQML FROM layer_styles WHERE f_table_name = ? AND useAsDefault"
        found = database.execute(query, (INDEX_LAYER,)).fetchone()
    return frame, found[0] if found else None


def _check_row(row: dict[str, Any], listing: dict[str, Any], expected: Expected) -> Iterator[str]:
    path = str(row["path"])
    if is_absolute(path) or "\\" in path:
        yield f"path {path} is not relative to the index"
    elif path != listing["path"]:
        yield f"path {path} is not {listing['path']}"
    for column, key in (("class_key", "class"), ("label", "label"), ("slot", "slot"), ("sha256", "sha256")):
        if row.get(column) != listing[key]:
            yield f"{column} is {row.get(column)!r}, the manifest says {listing[key]!r}"
    if not row.get("class_name"):
        yield "has no readable class name"
    a, b, c, d, e, f = listing["transform"]
    height, width = expected.facts.size
    if len(expected.systems) == 1 and row["geometry"] is not None:
        corners = [c, f, c + a * width + b * height, f + d * width + e * height]
        box = [min(corners[0], corners[2]), min(corners[1], corners[3]), max(corners[0::2]), max(corners[1::2])]
        if b == d == 0 and not np.allclose(row["geometry"].bounds, box, rtol=1e-9, atol=1e-6):
            yield "footprint does not lie where the tile does"


def _check_stac_file(folder: Path, name: str) -> tuple[dict[str, Any] | None, list[Fault]]:
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, [Fault(name, "is missing")]
    except (OSError, ValueError) as error:
        return None, [Fault(name, f"is not JSON ({error})")]
    if not isinstance(content, dict):
        return None, [Fault(name, "is not a STAC object")]
    faults = []
    try:
        check_stac(content, "it")
    except ArtifactError as error:
        faults.append(Fault(name, str(error)))
    assets = content.get("assets", {})
    hrefs = [link.get("href", "") for link in content.get("links", [])]
    hrefs += [asset.get("href", "") for asset in (assets.values() if isinstance(assets, dict) else [])]
    for href in sorted(set(hrefs)):
        if is_absolute(href):
            faults.append(Fault(name, f"absolute link {href}: the folder could not be moved"))
        elif not Path(os.path.normpath(path.parent / href)).is_file():
            faults.append(Fault(name, f"link {href} leads nowhere"))
    return content, faults


def _check_item(item: dict[str, Any], listing: dict[str, Any], expected: Expected) -> Iterator[str]:
    image = item.get("assets", {}).get("image", {})
    if image.get("file:checksum") != f"1220{listing['sha256']}":
        yield "checksum differs from the manifest"
    names = [band.get("name") for band in image.get("bands", [])]
    if names != list(expected.facts.bands.names):
        yield f"bands are {names}, expected {list(expected.facts.bands.names)}"
    properties = item.get("properties", {})
    said = {
        "rsdistill:class": listing["class"],
        "rsdistill:label": listing["label"],
        "rsdistill:slot": listing["slot"],
        "rsdistill:digital_source_type": expected.facts.source_type,
        "proj:transform": listing["transform"],
        "proj:wkt2": expected.systems[listing["crs"]],
    }
    for key, value in said.items():
        if properties.get(key) != value:
            yield f"{key} differs from the manifest"


def validate_folder(folder: Path | str, *, progress: bool = False) -> list[Fault]:
    """Find everything that is wrong with an exported folder; repairs nothing.

    Args:
        folder: The exported folder.
        progress: Show a progress bar.

    Returns:
        The faults, sorted by file; none in a good folder.

    Raises:
        ArtifactError: If the folder is missing.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder; name one made by rsdistill export")
    try:
        expected, faults = read_expected(folder)
    except ArtifactError as error:
        return [Fault(MANIFEST, str(error))]
    with quiet_gdal():
        for listing in tqdm(expected.tiles, desc="checking", unit="tile", disable=not progress):
            faults.extend(check_tile(folder, listing, expected))
    for check in (check_files, check_index, check_mosaics, check_catalog, check_project):
        faults.extend(check(folder, expected))
    return sorted(set(faults))
