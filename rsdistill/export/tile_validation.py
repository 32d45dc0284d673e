"""Check one exported tile against the manifest: bytes, pixels, and everything it says of itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, RasterioError

from rsdistill.classes import ClassInfo
from rsdistill.errors import ArtifactError
from rsdistill.export.geotiff import (
    DOCUMENT_KEY,
    band_statistics,
    colour_interpretation,
    has_alpha,
    optics_tags,
    pixel_digest,
)
from rsdistill.export.metadata import FORMAT, MANIFEST, NON_COMMERCIAL_NOTICE, Facts, is_non_commercial
from rsdistill.utils.provenance import digest, file_digest


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: Path below the exported folder, with forward slashes.
        what: What is wrong with it, in words.
    """

    file: str
    what: str

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class Expected:
    """What the manifest says.

    Attributes:
        facts: What all tiles share.
        document: The same as the JSON that each tile repeats.
        classes: The classes of the set, in the order of their labels.
        tiles: The listing of each tile.
        systems: CRSs of the tiles as WKT.
        mosaics: Paths of the mosaics.
        files: sha256 of other files, by path.
        geoparquet: Whether the index is also there as GeoParquet.
    """

    facts: Facts
    document: dict[str, Any]
    classes: tuple[ClassInfo, ...]
    tiles: list[dict[str, Any]]
    systems: list[str]
    mosaics: list[str]
    files: dict[str, str]
    geoparquet: bool


def read_expected(folder: Path) -> tuple[Expected, list[Fault]]:
    """Read the manifest.

    Args:
        folder: The exported folder.

    Returns:
        What it says, and its own faults.

    Raises:
        ArtifactError: If it is missing or too damaged to check anything by.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ArtifactError(f"{path} is of format {manifest['format']}, not {FORMAT}; use the version that made it")
        expected = Expected(
            facts=Facts.from_document(manifest["facts"]),
            document=manifest["facts"],
            classes=tuple(ClassInfo(**info) for info in manifest["classes"]),
            tiles=list(manifest["tiles"]),
            systems=list(manifest["crs"]),
            mosaics=list(manifest["mosaics"]),
            files=dict(manifest["files"]),
            geoparquet=bool(manifest["options"]["geoparquet"]),
        )
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} has no {MANIFEST}; name a folder made by rsdistill export") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); export again") from error
    sealed = {key: value for key, value in manifest.items() if key != "seal"}
    altered = digest(sealed) != manifest.get("seal")
    return expected, [Fault(MANIFEST, "was altered: its seal does not match its content")] if altered else []


_CLOSE = 1e-9
_IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def check_tile(folder: Path, listing: dict[str, Any], expected: Expected) -> list[Fault]:
    """All faults of one tile and of the style beside it.

    Args:
        folder: The exported folder.
        listing: What the manifest says of the tile.
        expected: What the manifest says of all.
    """
    name = str(listing["path"])
    path = folder / name
    if not path.is_file():
        return [Fault(name, "is missing")]
    said = []
    if file_digest(path) != listing["sha256"]:
        said.append("checksum differs from the manifest: the file was changed")
    try:
        with rasterio.open(path) as source:
            said.extend(_check_open(path, source, listing, expected))
    except RasterioError as error:
        said.append(f"cannot be read as GeoTIFF ({error})")
    style = name.removesuffix(".tif") + ".qml"
    return [*(Fault(name, what) for what in said), *_check_style(folder, style, len(expected.facts.bands))]


def _check_open(path: Path, source: Any, listing: dict[str, Any], expected: Expected) -> Iterator[str]:
    facts = expected.facts
    if source.driver != "GTiff" or source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") != "COG":
        yield "is not a cloud-optimised GeoTIFF"
    if source.count != len(facts.bands):
        yield f"has {source.count} band(s), expected {len(facts.bands)} ({', '.join(facts.bands.names)})"
        return
    if (source.height, source.width) != facts.size:
        yield f"is {source.height} x {source.width} pixels, expected {facts.size[0]} x {facts.size[1]}"
    if set(source.dtypes) != {facts.encoding.dtype}:
        yield f"has pixels of type {', '.join(sorted(set(source.dtypes)))}, expected {facts.encoding.dtype}"
    yield from _check_bands(path, source, facts)
    yield from _check_place(source, listing, expected.systems)
    yield from _check_document(source, listing, expected)
    yield from _check_pixels(source, listing, facts)


def _check_bands(path: Path, source: Any, facts: Facts) -> Iterator[str]:
    if source.descriptions != facts.bands.names:
        yield f"band names are {source.descriptions}, expected {facts.bands.names}"
    if ColorInterp.alpha in source.colorinterp or has_alpha(path):
        yield "shows a band as alpha (transparency)"
    elif source.colorinterp != colour_interpretation(facts.bands):
        yield f"colour interpretation is {[meaning.name for meaning in source.colorinterp]}"
    if any(MaskFlags.per_dataset in flags for flags in source.mask_flag_enums):
        yield "has a mask, which programs show as an extra band"
    for number, band in enumerate(facts.bands, start=1):
        if source.tags(number, ns="IMAGERY") != optics_tags(band):
            yield f"wavelength of band {band.name} is missing or differs"
    if set(source.scales) != {facts.encoding.scale} or set(source.offsets) != {facts.encoding.offset}:
        yield (
            f"scale {source.scales[0]:g} or offset {source.offsets[0]:g} differs from {facts.encoding.scale:g} and "
            + (f"{facts.encoding.offset:g}")
        )
    if any(not _same_number(value, facts.encoding.nodata) for value in source.nodatavals):
        yield f"nodata is {source.nodatavals[0]}, expected {facts.encoding.nodata}"


def _check_place(source: Any, listing: dict[str, Any], systems: list[str]) -> Iterator[str]:
    wkt = systems[listing["crs"]]
    if source.crs is None:
        yield "has no CRS"
    elif not _same_crs(source.crs.to_wkt(), wkt):
        yield f"CRS is '{_crs_name(source.crs.to_wkt())}', expected '{_crs_name(wkt)}'"
    pairs = zip(tuple(source.transform)[:6], listing["transform"], strict=True)
    if not all(math.isclose(a, b, rel_tol=_CLOSE, abs_tol=_CLOSE) for a, b in pairs):
        yield "lies elsewhere than the manifest says (transform differs)"


def _check_document(source: Any, listing: dict[str, Any], expected: Expected) -> Iterator[str]:
    tags, facts = source.tags(), expected.facts
    try:
        document = json.loads(tags[DOCUMENT_KEY])
        own = {
            "name": document["name"],
            "class": document["class"]["key"],
            "label": document["class"]["label"],
            "slot": document["slot"],
            "pixels_sha256": document["pixels_sha256"],
        }
    except (KeyError, TypeError, ValueError):
        yield f"its provenance (key {DOCUMENT_KEY}) is missing or damaged"
        return
    altered = sorted(key for key, value in expected.document.items() if document.get(key) != value)
    altered += sorted(key for key, value in own.items() if listing[key] != value)
    if altered:
        yield f"its provenance differs from the manifest in: {', '.join(altered)}"
    licence = str(document.get("dataset", {}).get("licence", ""))
    told = f"{document.get('notices')} {tags.get('TIFFTAG_IMAGEDESCRIPTION', '')}"
    if is_non_commercial(licence) and told.count(NON_COMMERCIAL_NOTICE) < 2:
        yield "does not say that its use is limited to non-commercial purposes"
    if licence not in tags.get("TIFFTAG_COPYRIGHT", ""):
        yield "does not carry the licence of the dataset"
    if _xmp_source_type(source) != facts.source_type:
        yield "XMP does not say how the image came to be (IPTC digital source type)"


def _check_pixels(source: Any, listing: dict[str, Any], facts: Facts) -> Iterator[str]:
    stored = source.read()
    if pixel_digest(stored) != listing["pixels_sha256"]:
        yield "pixels differ from the manifest"
    for number, figures in enumerate(band_statistics(stored, facts.encoding), start=1):
        tags = {k: v for k, v in source.tags(number).items() if k.startswith("STATISTICS_")}
        wanted = {f"STATISTICS_{key}": value for key, value in figures.items()}
        if tags.keys() != wanted.keys() or any(not _close(tags[key], value) for key, value in wanted.items()):
            yield f"statistics of band {facts.bands.names[number - 1]} are missing or differ from its pixels"


def _check_style(folder: Path, name: str, bands: int) -> Iterator[Fault]:
    path = folder / name
    if not path.is_file():
        yield Fault(name, "is missing: QGIS would show the tile in false colours")
        return
    try:
        renderer = ET.parse(path).getroot().find("pipe/rasterrenderer")
    except (ET.ParseError, UnicodeDecodeError) as error:
        yield Fault(name, f"is not a QGIS style ({error})")
        return
    if renderer is None:
        yield Fault(name, "has no renderer")
        return
    shown = [
        int(value) for key, value in renderer.attrib.items() if key in ("redBand", "greenBand", "blueBand", "grayBand")
    ]
    if not shown or not all(0 < number <= bands for number in shown) or renderer.get("alphaBand", "-1") != "-1":
        yield Fault(name, "shows bands that the tile does not have, or a band as transparency")


def _xmp_source_type(source: Any) -> str | None:
    packet = source.tags(ns="xml:XMP").get("xml:XMP", "")
    try:
        root = ET.fromstring(packet[packet.index("<x:xmpmeta") : packet.index("<?xpacket end")])
    except (ET.ParseError, ValueError):
        return None
    return next((element.attrib[_IPTC] for element in root.iter() if _IPTC in element.attrib), None)


@lru_cache(maxsize=256)
def _same_crs(found: str, wanted: str) -> bool:
    """Whether two CRSs are one; of an engineering CRS a GeoTIFF keeps the name only."""
    try:
        first, second = CRS.from_wkt(found), CRS.from_wkt(wanted)
    except CRSError:
        return False
    return first == second or (_is_local(found) and _is_local(wanted) and _crs_name(found) == _crs_name(wanted))


@lru_cache(maxsize=256)
def _crs_name(wkt: str) -> str:
    return wkt.split('"')[1] if '"' in wkt else wkt


def _is_local(wkt: str) -> bool:
    return wkt.startswith(("ENGCRS", "LOCAL_CS"))


def _same_number(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return found == wanted or (math.isnan(found) and math.isnan(wanted))


def _close(text: str, value: float) -> bool:
    try:
        return math.isclose(float(text), value, rel_tol=1e-6, abs_tol=_CLOSE)
    except ValueError:
        return False
