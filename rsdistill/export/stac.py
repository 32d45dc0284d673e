"""A static STAC catalog: a collection, an item a tile, and the generator as a machine-learning model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rsdistill.bands import Band
from rsdistill.export.georef import ENGINEERING, footprint
from rsdistill.export.geotiff import Written, by_wavelength
from rsdistill.export.metadata import INDEX, MANIFEST, README, STAC, Facts, Tile, file_safe
from rsdistill.export.stac_schemas import EO, FILE, MLM, PROCESSING, PROJECTION, RASTER
from rsdistill.utils.io import complete_file, write_json
from rsdistill.utils.provenance import package_version

VERSION = "1.1.0"
CATALOG, COLLECTION, GENERATOR = "catalog.json", "collection.json", "generator.json"
ITEMS = "items"
_GEOTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
_JSON, _GEOJSON = "application/json", "application/geo+json"
_MULTIHASH_SHA256 = "1220"
_EARTH = [-180.0, -90.0, 180.0, 90.0]
_SPDX = re.compile(r"(CC0|CC-BY(-NC)?(-SA|-ND)?|MIT|Apache|ODbL|ODC-By|PDDL)-?[0-9.]*")
# Common names of the eo extension by the range (µm) that a band's centre lies in.
_COMMON_NAMES = {
    "coastal": (0.40, 0.455),
    "blue": (0.455, 0.52),
    "green": (0.52, 0.60),
    "red": (0.60, 0.69),
    "rededge": (0.69, 0.79),
    "nir": (0.79, 0.855),
    "nir08": (0.855, 0.90),
    "nir09": (0.92, 0.97),
    "cirrus": (1.35, 1.40),
    "swir16": (1.55, 1.75),
    "swir22": (2.05, 2.35),
}


def write_item(folder: Path, tile: Tile, facts: Facts, written: Written, created: str) -> None:
    """Write the item of one tile; ``created`` is when the export was made, RFC 3339.

    Raises:
        StorageError: If the folder cannot be written.
    """
    with complete_file(folder / item_path(tile)) as partial:
        partial.write_text(json.dumps(tile_item(tile, facts, written, created), ensure_ascii=False), encoding="utf-8")


def write_catalog(folder: Path, tiles: Sequence[Tile], facts: Facts, created: str) -> None:
    """Write catalog, collection and generator; the items are there already.

    Raises:
        StorageError: If the folder cannot be written.
    """
    root = folder / STAC
    write_json(root / CATALOG, _catalog(facts))
    write_json(root / COLLECTION, _collection(tiles, facts, created))
    if facts.synthetic:
        write_json(root / GENERATOR, _generator(facts, created))


def item_path(tile: Tile) -> str:
    """Path of a tile's item below the exported folder, with forward slashes."""
    _, folder, name = tile.path.split("/")
    return f"{STAC}/{ITEMS}/{folder}/{Path(name).stem}.json"


def tile_item(tile: Tile, facts: Facts, written: Written, created: str) -> dict[str, Any]:
    """The STAC item of one tile.

    A tile that is not on Earth has a null geometry and no box, as STAC provides for.
    """
    corners = footprint(tile.spot, facts.size)
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    a, b, c, d, e, f = tile.spot.transform
    extensions = [PROJECTION, RASTER, FILE, PROCESSING]
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": extensions + ([EO] if _has_optics(facts) else []),
        "id": tile.name,
        "collection": collection_id(facts),
        "geometry": None,
        "properties": {
            "datetime": created,
            "created": created,
            "title": f"{tile.class_name} {tile.slot}",
            "description": " ".join([tile.caption, *facts.notices]).strip(),
            "gsd": facts.gsd,
            "license": spdx(facts.licence),
            "proj:code": _code(tile.spot.wkt) if facts.georeferencing != ENGINEERING else None,
            "proj:wkt2": tile.spot.wkt,
            "proj:shape": list(facts.size),
            "proj:transform": [a, b, c, d, e, f],
            "proj:bbox": [min(xs), min(ys), max(xs), max(ys)],
            **_processing(facts),
            "rsdistill:class": tile.class_key,
            "rsdistill:label": tile.label,
            "rsdistill:slot": tile.slot,
            **({} if tile.verdict is None else {"rsdistill:verdict": tile.verdict}),
            "rsdistill:digital_source_type": facts.source_type,
            "rsdistill:georeferencing": facts.georeferencing,
        },
        "links": _item_links(facts),
        "assets": {"image": _image_asset(tile, facts, written), "style": _style_asset(tile)},
    }
    if facts.georeferencing != ENGINEERING:
        item |= _on_earth(tile.spot.wkt, corners)
    return item


def collection_id(facts: Facts) -> str:
    """Id of the collection: dataset, method and the beginning of the set's seal."""
    return f"{file_safe(facts.dataset) or 'tiles'}-{file_safe(facts.method) or 'method'}-{facts.seal[:8]}".lower()


def spdx(licence: str) -> str:
    """The licence as STAC wants it: an SPDX identifier, or ``other`` where the words are a person's own."""
    return licence if _SPDX.fullmatch(licence) else "other"


def _image_asset(tile: Tile, facts: Facts, written: Written) -> dict[str, Any]:
    return {
        "href": f"../../../{tile.path}",
        "type": _GEOTIFF,
        "roles": ["data"],
        "title": f"{tile.class_name} {tile.slot}",
        "file:size": written.size,
        "file:checksum": _MULTIHASH_SHA256 + written.sha256,
        "bands": [_band(band, facts, figures) for band, figures in zip(facts.bands, written.statistics, strict=True)],
    }


def _style_asset(tile: Tile) -> dict[str, Any]:
    return {
        "href": f"../../../{tile.path.removesuffix('.tif')}.qml",
        "type": "application/xml",
        "roles": ["metadata"],
        "title": "QGIS style: natural colour",
    }


def _band(band: Band, facts: Facts, figures: dict[str, float]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": band.name,
        "description": band.title or band.name,
        "data_type": facts.encoding.dtype,
        "raster:sampling": "area",
        "raster:spatial_resolution": facts.gsd,
        "raster:scale": facts.encoding.scale,
        "raster:offset": facts.encoding.offset,
    }
    nodata = facts.encoding.nodata
    if nodata is not None:
        described["nodata"] = "nan" if math.isnan(nodata) else nodata
    if figures:
        described["statistics"] = {key.lower(): value for key, value in figures.items()}
    optics = {
        "eo:common_name": by_wavelength(band, _COMMON_NAMES),
        "eo:center_wavelength": band.centre,
        "eo:full_width_half_max": band.width,
    }
    return described | {key: value for key, value in optics.items() if value is not None}


def _has_optics(facts: Facts) -> bool:
    return any(band.centre is not None or band.width is not None for band in facts.bands)


def _processing(facts: Facts) -> dict[str, Any]:
    verb = "Generated" if facts.synthetic else "Selected"
    return {
        "processing:software": {"rsdistill": package_version()},
        "processing:lineage": f"{verb} by the method {facts.method} of rsdistill from the dataset {facts.dataset}.",
    }


def _item_links(facts: Facts) -> list[dict[str, Any]]:
    links = [
        _link("root", f"../../{CATALOG}", _JSON),
        _link("parent", f"../../{COLLECTION}", _JSON),
        _link("collection", f"../../{COLLECTION}", _JSON),
        _link("license", f"../../../{README}", "text/plain"),
    ]
    if facts.synthetic:
        links.append(_link("derived_from", f"../../{GENERATOR}", _GEOJSON))
    return links


def _catalog(facts: Facts) -> dict[str, Any]:
    children = [_link("root", f"./{CATALOG}", _JSON), _link("child", f"./{COLLECTION}", _JSON)]
    if facts.synthetic:
        children.append(_link("item", f"./{GENERATOR}", _GEOJSON))
    return {
        "type": "Catalog",
        "stac_version": VERSION,
        "id": f"{collection_id(facts)}-catalog",
        "title": f"Tiles of {facts.dataset} by {facts.method}",
        "description": " ".join(facts.notices),
        "links": children,
    }


def _collection(tiles: Sequence[Tile], facts: Facts, created: str) -> dict[str, Any]:
    items = [_link("item", f"./{item_path(tile).removeprefix(f'{STAC}/')}", _GEOJSON) for tile in tiles]
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": [PROCESSING],
        "id": collection_id(facts),
        "title": f"Tiles of {facts.dataset} by {facts.method}",
        "description": " ".join([*facts.notices, f"Dataset: {facts.citation or facts.dataset}."]),
        "license": spdx(facts.licence),
        "keywords": ["synthetic" if facts.synthetic else "subset", "scene classification", facts.dataset],
        "providers": [{"name": "rsdistill", "roles": ["processor"], **_processing(facts)}],
        # STAC wants an extent on Earth even of what has none there; the notices in the description say so.
        "extent": {"spatial": {"bbox": [_extent(tiles, facts)]}, "temporal": {"interval": [[created, created]]}},
        "summaries": {"gsd": [facts.gsd], "rsdistill:class": sorted({tile.class_key for tile in tiles})},
        "links": [
            _link("root", f"./{CATALOG}", _JSON),
            _link("parent", f"./{CATALOG}", _JSON),
            _link("license", f"../{README}", "text/plain"),
            *items,
        ],
        "assets": {
            "index": {
                "href": f"../{INDEX}",
                "type": "application/geopackage+sqlite3",
                "roles": ["metadata"],
                "title": "Tile index",
            },
            "manifest": {"href": f"../{MANIFEST}", "type": _JSON, "roles": ["metadata"], "title": "Provenance"},
        },
    }


def _generator(facts: Facts, created: str) -> dict[str, Any]:
    """The model that drew the tiles; its full recipe is the manifest."""
    height, width = facts.size
    tasks = ["generative"]
    result = {
        "shape": [-1, len(facts.bands), height, width],
        "dim_order": ["batch", "channel", "height", "width"],
        "data_type": facts.encoding.dtype,
    }
    noise = {"shape": [-1], "dim_order": ["batch"], "data_type": "float32"}
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": [MLM, PROCESSING],
        "id": f"{collection_id(facts)}-generator",
        "geometry": None,
        "properties": {
            "datetime": created,
            "title": f"Generator: {facts.method}",
            "description": f"What drew the tiles from {facts.dataset}; the manifest holds its options and versions.",
            "mlm:name": f"rsdistill-{file_safe(facts.method) or 'method'}",
            "mlm:architecture": facts.method,
            "mlm:framework": "PyTorch",
            "mlm:tasks": tasks,
            "mlm:input": [{"name": "noise and class", "bands": [], "input": noise}],
            "mlm:output": [{"name": "tile", "tasks": tasks, "result": result, "classification:classes": []}],
            **_processing(facts),
        },
        "links": [_link("root", f"./{CATALOG}", _JSON), _link("parent", f"./{CATALOG}", _JSON)],
        "assets": {
            "model": {
                "href": f"../{MANIFEST}",
                "type": _JSON,
                "roles": ["mlm:model", "metadata"],
                "title": "Recipe of the generator: method, options, seed and versions",
                "mlm:artifact_type": "rsdistill.manifest",
            }
        },
    }


def _extent(tiles: Sequence[Tile], facts: Facts) -> list[float]:
    if facts.georeferencing == ENGINEERING:
        return _EARTH
    boxes = [_on_earth(tile.spot.wkt, footprint(tile.spot, facts.size))["bbox"] for tile in tiles]
    west, south, east, north = zip(*boxes, strict=True)
    return [min(west), min(south), max(east), max(north)]


def _on_earth(wkt: str, corners: Sequence[tuple[float, float]]) -> dict[str, Any]:
    ring = [list(_to_degrees(wkt).transform(x, y)) for x, y in corners]
    lon, lat = [point[0] for point in ring], [point[1] for point in ring]
    # STAC's polygons run anticlockwise; footprints clockwise.
    closed = [*reversed(ring), ring[-1]]
    return {
        "geometry": {"type": "Polygon", "coordinates": [closed]},
        "bbox": [min(lon), min(lat), max(lon), max(lat)],
    }


@lru_cache(maxsize=64)
def _to_degrees(wkt: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(wkt, "OGC:CRS84", always_xy=True)


@lru_cache(maxsize=64)
def _code(wkt: str) -> str | None:
    from pyproj import CRS

    code = CRS.from_wkt(wkt).to_epsg()
    return None if code is None else f"EPSG:{code}"


def _link(rel: str, href: str, kind: str) -> dict[str, Any]:
    return {"rel": rel, "href": href, "type": kind}
