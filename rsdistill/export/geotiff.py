"""One tile as a cloud-optimised GeoTIFF that says what it is and where it came from."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar
from xml.sax.saxutils import quoteattr

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from rsdistill.bands import NATURAL_COLOUR, Band, BandSet
from rsdistill.errors import ExportError
from rsdistill.export.encoding import Encoding
from rsdistill.export.metadata import Facts, Tile
from rsdistill.utils.io import complete_file

T = TypeVar("T")
_EXTRA_SAMPLES, _SHORT = 338, 3
_ENTRY, _ENTRY_BYTES = "<HHI", 12
_ALPHA_KINDS = (1, 2)


def clear_alpha(path: Path) -> None:
    """Say in the TIFF itself that no band is alpha.

    The COG driver marks the fourth band of 8-bit images as alpha and takes no option
    against it; readers without GDAL would show near infrared as transparency.

    Args:
        path: A GeoTIFF of four bands or fewer extra bands as the COG driver writes it.
    """
    with path.open("r+b") as stream:
        for position, kinds in list(_extra_samples(stream)):
            if any(kind in _ALPHA_KINDS for kind in kinds):
                stream.seek(position)
                stream.write(struct.pack(f"<{len(kinds)}H", *(0 for _ in kinds)))


def has_alpha(path: Path) -> bool:
    """Whether a TIFF calls one of its extra bands alpha."""
    with path.open("rb") as stream:
        return any(kind in _ALPHA_KINDS for _, kinds in _extra_samples(stream) for kind in kinds)


def _extra_samples(stream: BinaryIO) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Where each image of a classic little-endian TIFF says what its extra bands are, and what it says.

    The COG driver writes this kind below 4 GB; of other kinds nothing is found.
    """
    header = stream.read(8)
    if header[:4] != b"II*\0":
        return
    (directory,) = struct.unpack("<I", header[4:])
    while directory:
        stream.seek(directory)
        (count,) = struct.unpack("<H", stream.read(2))
        entries = stream.read(_ENTRY_BYTES * count)
        (following,) = struct.unpack("<I", stream.read(4))
        for start in range(0, len(entries), _ENTRY_BYTES):
            tag, kind, length = struct.unpack_from(_ENTRY, entries, start)
            if tag != _EXTRA_SAMPLES or kind != _SHORT:
                continue
            # Up to four bytes stand in the entry itself, more elsewhere.
            position = directory + 2 + start + 8
            if 2 * length > 4:
                (position,) = struct.unpack_from("<I", entries, start + 8)
            stream.seek(position)
            yield position, struct.unpack(f"<{length}H", stream.read(2 * length))
        directory = following


# Key of the JSON document in the default metadata domain: COG drops keys of other domains.
DOCUMENT_KEY = "RSDISTILL"
_BLOCK, _BLOCK_STEP = 256, 16
# Bytes written to ask the system why GDAL could not write.
_PROBE = 1 << 20
# A band with its centre in one of these ranges (µm) is shown by that name.
_RANGES = {
    ColorInterp.coastal: (0.40, 0.45),
    ColorInterp.rededge: (0.69, 0.79),
    ColorInterp.nir: (0.79, 1.00),
    ColorInterp.swir: (1.00, 3.00),
}
_STATISTICS = ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV", "VALID_PERCENT")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for one tile.

    Attributes:
        sha256: Of the file, in hexadecimal.
        size: Of the file, in bytes.
        pixels: sha256 of the stored values of shape (band, y, x), little-endian.
        statistics: For each band its statistics, empty where no pixel is valid.
    """

    sha256: str
    size: int
    pixels: str
    statistics: tuple[dict[str, float], ...]


def quiet_gdal() -> rasterio.Env:
    """Settings to read and write tiles in: GDAL leaves no sidecar files and starts no threads of its own."""
    return rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_NUM_THREADS="1", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")


def write_geotiff(path: Path, pixels: NDArray[Any], tile: Tile, facts: Facts) -> Written:
    """Write one tile, within :func:`quiet_gdal`, so that the file is either complete or absent.

    Args:
        path: The file.
        pixels: Image of shape (band, y, x) in sensor units.
        tile: What the tile is.
        facts: What all tiles of the set share.

    Raises:
        ExportError: If the image has infinite values or no valid pixel at all.
        StorageError: If the file cannot be written.
    """
    try:
        stored = facts.encoding.encode(pixels)
    except ExportError as error:
        raise ExportError(f"tile {tile.name} {error}") from error
    statistics = band_statistics(stored, facts.encoding)
    if not any(statistics):
        raise ExportError(f"tile {tile.name} has no valid pixel in any band; drop it or make the set again")
    digest = pixel_digest(stored)
    with complete_file(path) as partial:
        try:
            _write(partial, stored, tile, facts, statistics, digest)
            clear_alpha(partial)
            content = partial.read_bytes()
        # rasterio raises SystemError where GDAL fails to close a file and does not say why.
        except (rasterio.errors.RasterioError, SystemError) as error:
            _raise_storage(error, partial, path)
    return Written(hashlib.sha256(content).hexdigest(), len(content), digest, statistics)


def describe_written(path: Path, pixels: NDArray[Any], facts: Facts) -> Written:
    """What :func:`write_geotiff` said of a file that it wrote earlier, for the same arguments."""
    stored = facts.encoding.encode(pixels)
    content = path.read_bytes()
    statistics = band_statistics(stored, facts.encoding)
    return Written(hashlib.sha256(content).hexdigest(), len(content), pixel_digest(stored), statistics)


def tile_document(tile: Tile, facts: Facts, digest: str) -> dict[str, Any]:
    """The JSON document of a tile: class, caption, provenance, and ``digest``, the sha256 of its stored values."""
    return {
        **facts.document,
        "name": tile.name,
        "class": {"key": tile.class_key, "name": tile.class_name, "sector": tile.sector, "label": tile.label},
        "slot": tile.slot,
        "caption": tile.caption,
        "score": tile.score,
        "verdict": tile.verdict,
        "pixels_sha256": digest,
    }


def band_statistics(stored: NDArray[Any], encoding: Encoding) -> tuple[dict[str, float], ...]:
    """Minimum, maximum, mean, standard deviation and share of valid pixels of each band.

    Args:
        stored: Stored values of shape (band, y, x).
        encoding: How they are stored.

    Returns:
        A mapping for each band, empty where no pixel is valid.
    """
    mask = encoding.valid(stored)
    result: list[dict[str, float]] = []
    for band in range(len(stored)):
        values = stored[band] if mask is None else stored[band][mask[band]]
        if not values.size:
            result.append({})
            continue
        figures = (values.min(), values.max(), values.mean(dtype=np.float64), values.std(dtype=np.float64))
        share = 100.0 * values.size / stored[band].size
        result.append(dict(zip(_STATISTICS, (*map(float, figures), share), strict=True)))
    return tuple(result)


def pixel_digest(stored: NDArray[Any]) -> str:
    """sha256 of stored values of shape (band, y, x), little-endian, in hexadecimal."""
    ordered = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("<"))
    return hashlib.sha256(ordered.reshape(-1).view(np.uint8).data).hexdigest()


def colour_interpretation(bands: BandSet) -> tuple[ColorInterp, ...]:
    """What each band shows, by its wavelength; never alpha."""
    if len(bands) == 1:
        return (ColorInterp.gray,)
    meanings = [by_wavelength(band, _RANGES) or ColorInterp.undefined for band in bands]
    if bands.has(NATURAL_COLOUR):
        colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        for colour, position in zip(colours, bands.composite(NATURAL_COLOUR), strict=True):
            meanings[position] = colour
    elif meanings[0] is ColorInterp.undefined:
        # A TIFF cannot leave open what its first band shows.
        meanings[0] = ColorInterp.gray
    return tuple(meanings)


def by_wavelength(band: Band, ranges: Mapping[T, tuple[float, float]]) -> T | None:
    """The first of some ranges of wavelength (µm) that a band's centre lies in; None where there is none."""
    inside = (key for key, (low, high) in ranges.items() if band.centre is not None and low <= band.centre < high)
    return next(inside, None)


def optics_tags(band: Band) -> dict[str, str]:
    """Centre wavelength and width of a band as GDAL's IMAGERY domain has them, in micrometres."""
    optics = {"CENTRAL_WAVELENGTH_UM": band.centre, "FWHM_UM": band.width}
    return {key: f"{value:g}" for key, value in optics.items() if value is not None}


def xmp_packet(facts: Facts) -> str:
    """XMP that tells how the image came to be, and under which terms it may be used."""
    source, rights = quoteattr(facts.source_type), quoteattr(_rights(facts))
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
        f" Iptc4xmpExt:DigitalSourceType={source} photoshop:Credit={rights}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def _write(
    path: Path, stored: NDArray[Any], tile: Tile, facts: Facts, statistics: tuple[dict[str, float], ...], digest: str
) -> None:
    count, height, width = stored.shape
    block = min(_BLOCK, -(-max(height, width) // _BLOCK_STEP) * _BLOCK_STEP)
    with (
        rasterio.open(
            path,
            "w",
            driver="COG",
            compress="DEFLATE",
            predictor="YES",
            blocksize=block,
            overview_resampling="average",
            count=count,
            height=height,
            width=width,
            dtype=stored.dtype,
            nodata=facts.encoding.nodata,
            crs=_crs(tile.spot.wkt),
            transform=Affine(*tile.spot.transform),
        ) as target,
    ):
        target.write(stored)
        target.descriptions = facts.bands.names
        target.scales, target.offsets = (facts.encoding.scale,) * count, (facts.encoding.offset,) * count
        target.colorinterp = colour_interpretation(facts.bands)
        target.update_tags(**_tags(tile, facts, digest))
        # GDAL wants the packet as one string; rasterio joins a key and a value with "=".
        key, value = xmp_packet(facts).split("=", 1)
        target.update_tags(ns="xml:XMP", **{key: value})
        for number, (band, figures) in enumerate(zip(facts.bands, statistics, strict=True), start=1):
            target.update_tags(number, ns="IMAGERY", **optics_tags(band))
            target.update_tags(number, **{f"STATISTICS_{k}": repr(v) for k, v in figures.items()})


@lru_cache(maxsize=64)
def _crs(wkt: str) -> CRS:
    """Tiles share a few CRSs, and reading one's text takes a while."""
    return CRS.from_wkt(wkt)


def _tags(tile: Tile, facts: Facts, digest: str) -> dict[str, str]:
    document = json.dumps(tile_document(tile, facts, digest), ensure_ascii=False)
    return {
        DOCUMENT_KEY: document,
        "TIFFTAG_IMAGEDESCRIPTION": f"{tile.class_name} {tile.slot}. {tile.caption} {' '.join(facts.notices)}",
        "TIFFTAG_SOFTWARE": facts.document["software"],
        "TIFFTAG_COPYRIGHT": _rights(facts),
    }


def _rights(facts: Facts) -> str:
    made = "Made from" if facts.synthetic else "Taken from"
    return f"{made} {facts.dataset}; licence of the dataset: {facts.licence}"


def _raise_storage(error: Exception, partial: Path, path: Path) -> NoReturn:
    """Tell a full or read-only disk, which GDAL reports in its own words, from other failures."""
    if isinstance(error.__cause__, OSError):
        raise error.__cause__
    # Where writing is not possible, this raises the system's own error.
    with partial.open("wb") as stream:
        stream.write(bytes(_PROBE))
    raise ExportError(f"{path} cannot be written as GeoTIFF ({error})") from error
