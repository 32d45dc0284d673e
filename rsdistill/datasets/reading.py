"""Image files to chips: sizes, bands, resampling, and which of them can be used at all."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from tqdm.auto import tqdm

from rsdistill.bands import BandSet
from rsdistill.errors import BandError, ChipError, DatasetError, UnknownNameError
from rsdistill.imaging.pixels import shrink

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")

# Descriptions that say no more than the position: "", "1", "Band 1", "layer_2".
_SAYS_NOTHING = re.compile(r"((band|layer|channel)[\s_-]*)?\d*", re.IGNORECASE)
_PHOTO_MODES = ("L", "LA", "RGB", "RGBA", "CMYK")
# Where a PNG says how many bits a plane has.
_PNG_DEPTH = 24
# What Pillow and GDAL raise for files that are truncated, of no known kind or beyond all measure.
_FAILURES = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, RasterioError)
# A look at the folder for side-car files at every open would cost more than the reading.
_GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
# warnings.catch_warnings is not safe across threads, and chips are read by several.
_opening = threading.Lock()


@dataclass(frozen=True)
class RawChip:
    """What an image file holds.

    Attributes:
        pixels: All planes (P, H, W), in the file's own type.
        descriptions: The file's description of each plane, None where it has none.
        nodata: Pixel value that the file declares to mean "no measurement".
        gsd: Ground sampling distance in metres, None without a projected coordinate system.
    """

    pixels: NDArray[Any]
    descriptions: tuple[str | None, ...] = ()
    nodata: float | None = None
    gsd: float | None = None


def read_file(path: Path) -> RawChip:
    """Read a GeoTIFF, TIFF, PNG or JPEG.

    Raises:
        ChipError: If the file is empty, truncated or not an image.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        return _read_png(path)
    return read_raster(path) if suffix in (".tif", ".tiff") else read_photo(path)


def _read_png(path: Path) -> RawChip:
    """Read 8 bits a plane through Pillow, which would cut 16-bit colour to 8; GDAL would not see a truncation."""
    with _readable(path):
        with path.open("rb") as stream:
            deep = stream.read(_PNG_DEPTH + 1)[_PNG_DEPTH:] == b"\x10"
        if deep:
            with Image.open(path) as image:
                image.load()
    return read_raster(path) if deep else read_photo(path)


def read_photo(path: Path) -> RawChip:
    """Read an 8-bit grey or colour image as torchgeo does, through Pillow.

    Raises:
        ChipError: If the file is empty, truncated, not an image or not of 8 bits a plane.
    """
    with _readable(path), Image.open(path) as image:
        if image.mode not in _PHOTO_MODES:
            raise ChipError(f"{path} is of mode {image.mode}; save it as 8-bit grey or RGB")
        return RawChip(np.atleast_3d(np.array(image)).transpose(2, 0, 1))


def read_raster(path: Path) -> RawChip:
    """Read an image of any number of bands and any type through GDAL.

    Raises:
        ChipError: If the file is empty, truncated, not an image or has a colour table.
    """
    with _readable(path), rasterio.Env(**_GDAL), _open(path) as file:
        if file.count == 1 and file.colorinterp[0] == ColorInterp.palette:
            raise ChipError(f"{path} has a colour table; save it as grey or RGB")
        return RawChip(file.read(), file.descriptions, file.nodata, _metres(file))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the libraries raise for files that are missing, empty or damaged into one message."""
    try:
        if not path.stat().st_size:
            raise ChipError(f"{path} is empty (0 bytes); replace or remove it")
        yield
    except _FAILURES as error:
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        raise ChipError(f"{path} cannot be read ({reason}); replace or remove it") from error


def _open(path: Path) -> Any:
    """Open for GDAL without a complaint about missing georeferences: chips may have none."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver="PNG" if path.suffix.lower() == ".png" else "GTiff")


def _metres(file: Any) -> float | None:
    """Pixel width in metres, if the file's coordinate system is projected."""
    if file.crs is None or not file.crs.is_projected:
        return None
    return float(abs(file.transform.a) * file.crs.linear_units_factor[1])


def to_bands(raw: RawChip, stored: BandSet, wanted: BandSet, where: str) -> NDArray[Any]:
    """The wanted bands of a file, checked and with one meaning of nodata.

    Args:
        raw: What the file holds.
        stored: The bands that files of this dataset hold, in their order.
        wanted: The bands to return; a subset of ``stored`` in any order.
        where: The file, for messages.

    Returns:
        Pixels (B, H, W) of type ``wanted.dtype``.

    Raises:
        ChipError: If count or type of the planes do not fit, or pixels are missing.
        BandError: If the file's own band descriptions contradict the dataset's bands.
    """
    pixels = raw.pixels[_planes(raw, stored, wanted, where)]
    if pixels.dtype != np.dtype(wanted.dtype):
        raise ChipError(
            f"{where} is of type {pixels.dtype}, but sensor '{wanted.sensor}' of {wanted.dtype}; "
            "convert the file or describe its bands"
        )
    return _one_nodata(pixels, raw.nodata, wanted, where)


def _planes(raw: RawChip, stored: BandSet, wanted: BandSet, where: str) -> list[int]:
    """Plane of the file for each wanted band: by description where there is one, else by position."""
    count = len(raw.pixels)
    described = [_meaningful(text) for text in raw.descriptions]
    if described and all(described):
        return [_described_plane([str(text) for text in described], stored, name, where) for name in wanted.names]
    if count != len(stored):
        raise ChipError(
            f"{where} has {count} band(s), but this dataset has {len(stored)} ({', '.join(stored.names)}); "
            "convert or remove it"
        )
    for plane, text in enumerate(described):
        if text and _index(stored, text) != plane:
            raise BandError(
                f"{where} describes its band {plane + 1} as '{text}', but the dataset has '{stored.names[plane]}' "
                "there; correct the description or name the bands in the file's order"
            )
    return stored.indices(wanted.names)


def _meaningful(text: str | None) -> str | None:
    """A description as far as it names a band: "B2, central wavelength 490 nm" is B2, "Band 1" nothing."""
    name = (text or "").split(",")[0].strip()
    return None if _SAYS_NOTHING.fullmatch(name) else name


def _index(bands: BandSet, text: str) -> int | None:
    """Position of the band that a description names or titles, None if there is none."""
    titles = [band.title for band in bands]
    if text.lower() in titles:
        return titles.index(text.lower())
    try:
        return bands.index(text)
    except UnknownNameError:
        return None


def _described_plane(described: list[str], stored: BandSet, name: str, where: str) -> int:
    """The one plane that is described as a band."""
    planes = [plane for plane, text in enumerate(described) if _index(stored, text) == stored.index(name)]
    if len(planes) != 1:
        fault = "none of them" if not planes else f"{len(planes)} of them"
        raise BandError(
            f"{where} describes its bands as {', '.join(described)}; {fault} is '{name}' of sensor "
            f"'{stored.sensor}': correct the descriptions or choose other bands"
        )
    return planes[0]


def _one_nodata(pixels: NDArray[Any], declared: float | None, bands: BandSet, where: str) -> NDArray[Any]:
    """Give missing pixels the nodata value of the bands; refuse a chip of which nothing else would be left."""
    missing = ~np.isfinite(pixels) if pixels.dtype.kind == "f" else np.zeros(pixels.shape, bool)
    if declared is not None:
        missing |= pixels == declared
    if bands.nodata is not None:
        missing |= pixels == bands.nodata
    if not missing.any():
        return pixels
    if _central_square(missing).all():
        raise ChipError(f"{where} holds no measurement in its central square, only nodata; remove it")
    if bands.nodata is None:
        raise ChipError(
            f"{where} has {int(missing.sum())} pixel value(s) that are NaN or nodata, but its bands have no nodata "
            "value; fill them or give the bands one"
        )
    return np.where(missing, np.asarray(bands.nodata, pixels.dtype), pixels)


def to_size(pixels: NDArray[Any], size: int, nodata: float | None = None) -> NDArray[Any]:
    """Cut the central square of a chip and resample it.

    Bilinear with antialiasing, computed in float32 and rounded back. Pixels without a
    measurement do not bleed into their neighbours: an output pixel is nodata where most
    of what it covers is.

    Args:
        pixels: Chip (B, H, W).
        size: Pixels on a side of the result.
        nodata: Value that means "no measurement".

    Returns:
        Chip (B, size, size) of the same type.
    """
    square = _central_square(pixels)
    if square.shape[-1] == size:
        return square
    values = square.astype(np.float32)
    missing = np.zeros(square.shape, bool) if nodata is None else square == nodata
    if not missing.any():
        return _back_to(_resample(values, size), square.dtype)
    weight = _resample((~missing).astype(np.float32), size)
    total = _resample(np.where(missing, np.float32(0), values), size)
    mean = total / np.maximum(weight, np.float32(1e-6))
    return _back_to(np.where(weight < 0.5, np.float32(nodata or 0), mean), square.dtype)


def to_cells(pixels: NDArray[Any], size: int, bands: BandSet) -> NDArray[Any]:
    """Cut the central square of a chip of any source and resample it: by cell means, or linearly where it grows.

    Args:
        pixels: Chip (B, H, W).
        size: Pixels on a side of the result.
        bands: Its bands; pixels equal to their nodata value do not bleed into their neighbours.

    Returns:
        Chip (B, size, size) of the same type; cells without a measurement hold nodata.
    """
    square = _central_square(pixels)
    if square.shape[-1] == size:
        return square
    cells = shrink(square[None], bands, size)[0].numpy()
    filled = cells if bands.nodata is None else np.where(np.isnan(cells), np.float32(bands.nodata), cells)
    return _back_to(filled, square.dtype)


def _central_square(pixels: NDArray[Any]) -> NDArray[Any]:
    """The largest square around the centre, (B, S, S)."""
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side]


def _resample(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Bilinear with antialiasing, (B, S, S) to (B, size, size)."""
    planes = torch.from_numpy(np.ascontiguousarray(values))[None]
    resampled = F.interpolate(planes, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return resampled[0].numpy()


def _back_to(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round and clip to an integer type; floats stay as they are."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


# A progress bar that flashes by is noise; one appears when a scan takes longer than this many seconds.
BAR_DELAY = 2.0
_BAD_SHARE, _BAD_MOST = 0.01, 20


class SkippedChipsWarning(UserWarning):
    """Some chips cannot be used, and the dataset goes on without them."""


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        good: Positions of the usable chips (n,), ascending.
        sides: Pixels on the shorter side of each usable chip (n,).
        groups: Group number of each usable chip (n,); exact copies share one.
    """

    good: NDArray[np.int64]
    sides: NDArray[np.int64]
    groups: NDArray[np.int64]


def workers() -> int:
    """Threads to read chips with: decoding releases Python's lock, more than a few gain nothing."""
    return min(8, os.cpu_count() or 1)


def scan(look: Callable[[int], NDArray[Any]], count: int, name: str, max_bad: int | None = None) -> Scan:
    """Decode every chip once.

    Args:
        look: Reads and checks the chip at a position; returns all pixels of its file (P, H, W).
        count: How many chips there are.
        name: Of the dataset, for messages.
        max_bad: Most unusable chips to go on without; None for one in a hundred, at least 1 and at most 20.

    Returns:
        The usable chips.

    Raises:
        DatasetError: If more chips than that cannot be used.
    """

    def examine(position: int) -> tuple[bytes, int] | ChipError:
        try:
            pixels = look(position)
        except ChipError as error:
            return error
        identity = f"{pixels.dtype}{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()
        return hashlib.blake2b(identity, digest_size=16).digest(), min(pixels.shape[-2:])

    with ThreadPoolExecutor(workers()) as pool:
        bar = tqdm(pool.map(examine, range(count)), f"scanning {name}", count, unit="chip", delay=BAR_DELAY)
        found = list(bar)
    bad = [result for result in found if isinstance(result, ChipError)]
    _report(bad, count, name, max_bad)
    good = [(position, *r) for position, r in enumerate(found) if not isinstance(r, ChipError)]
    positions, digests, sides = zip(*good, strict=True) if good else ((), (), ())
    groups = np.unique(np.array(digests, dtype="V16"), return_inverse=True)[1]
    return Scan(np.array(positions, np.int64), np.array(sides, np.int64), groups.astype(np.int64))


def _report(bad: list[ChipError], count: int, name: str, max_bad: int | None) -> None:
    """Warn of a few unusable chips, refuse many."""
    if not bad:
        return
    allowed = max(1, min(_BAD_MOST, int(count * _BAD_SHARE))) if max_bad is None else max_bad
    if len(bad) > allowed or len(bad) == count:
        raise DatasetError(
            f"dataset '{name}': {len(bad)} of {count} chips cannot be used, more than the {allowed} allowed by "
            f"max_bad; the first: {bad[0]}"
        )
    listed = "; ".join(str(error) for error in bad[:_BAD_MOST])
    more = f"; and {len(bad) - _BAD_MOST} more" if len(bad) > _BAD_MOST else ""
    warnings.warn(
        f"dataset '{name}': skipped {len(bad)} of {count} chips: {listed}{more}", SkippedChipsWarning, stacklevel=2
    )
