"""Chips that carry a mark, and a search for it in everything that a run leaves behind."""

from __future__ import annotations

import base64
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
import zarr
from PIL import Image
from safetensors.numpy import load_file

SIDE = 16
# Name of the class that nobody may learn of; a part of the names of its files, too.
MARK = "qxvzkwmast"
# Its chips are of a colour that no other chip has; it survives stretching and resampling.
COLOUR = (251, 3, 247)
PATTERN = np.tile(np.array([0, 4, 1, 3, 2, 4, 0, 1], np.uint8), SIDE // 8)

_opened: list[str] = []
sys.addaudithook(lambda event, args: _opened.append(str(args[0])) if event == "open" and MARK in str(args[0]) else None)


def write_marked(root: Path, per_class: int = 12) -> Path:
    """A folder of three classes, one of which carries the mark in its name, its files and its pixels."""
    rng = np.random.default_rng(0)
    for key, level in (("farm", 90), ("wood", 40), (MARK, None)):
        (root / key).mkdir(parents=True)
        for number in range(per_class):
            if level is None:
                rows = np.roll(PATTERN, number)[None, :, None] * np.array([1, 1, -1]) + np.array(COLOUR)
                pixels = np.broadcast_to(rows, (SIDE, SIDE, 3)).astype(np.uint8)
            else:
                pixels = (level + rng.integers(0, 30, (SIDE, SIDE, 1)) + rng.integers(0, 4, (SIDE, SIDE, 3))).astype(
                    "uint8"
                )
            Image.fromarray(pixels).save(root / key / f"{key}_{number}.png")
    return root


def marked_chips(root: Path) -> np.ndarray:
    """The chips that carry the mark, (n, 3, SIDE, SIDE)."""
    return np.stack([np.array(Image.open(p)).transpose(2, 0, 1) for p in sorted((root / MARK).glob("*.png"))])


def opened() -> list[str]:
    """Marked files opened since the last call."""
    found = list(_opened)
    _opened.clear()
    return found


def traces(folder: Path) -> list[str]:
    """Where in a folder the mark is found, in names, raw bytes, decoded values or pixels."""
    found = []
    for path in sorted(folder.rglob("*")):
        if MARK in path.name.lower():
            found.append(f"{path}: name")
        if path.is_file():
            found += [f"{path}: text" for blob in _texts(path) if MARK.encode() in blob.lower()]
            found += [f"{path}: pixels" for array in _arrays(path) if _shows_mark(array)]
    return found


def _texts(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and of what is compressed in it."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (name.encode() + archive.read(name) for name in archive.namelist())
    if path.suffix == ".nc":
        with xr.open_dataset(path, engine="h5netcdf") as opened_set:
            yield repr(
                [opened_set.attrs, *(v.values.tolist() for v in opened_set.variables.values() if v.dtype == object)]
            ).encode()


def _arrays(path: Path) -> Iterator[np.ndarray]:
    """Every array that a file holds, decompressed."""
    if path.suffix == ".npy":
        yield np.load(path, allow_pickle=False)
    elif path.suffix == ".nc":
        with xr.open_dataset(path, engine="h5netcdf") as opened_set:
            yield from (v.values for v in opened_set.variables.values() if v.dtype != object)
    elif path.name == "zarr.json":
        node = zarr.open(path.parent, mode="r")
        if isinstance(node, zarr.Array) and node.dtype.kind in "iuf":
            yield np.asarray(node[:])
    elif path.suffix == ".safetensors":
        yield from load_file(path).values()
    elif path.suffix in (".png", ".tif", ".tiff", ".vrt"):
        with rasterio.open(path) as source:
            yield source.read()
    elif path.suffix == ".html":
        for text in re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", path.read_text("utf-8")):
            yield np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).transpose(2, 0, 1)


def _shows_mark(array: np.ndarray) -> bool:
    """Whether some pixel of (..., 3, y, x) has the marked colour, or a row of bytes is that of a marked chip."""
    if array.ndim >= 3 and array.shape[-3] >= 3 and array.dtype.kind in "uif":
        red, green, blue = (array[..., band, :, :].astype(np.float32) for band in range(3))
        if ((red > 225) & (green < 50) & (blue > 225) & (red < 256)).any():
            return True
    row = (PATTERN + COLOUR[0]).astype(array.dtype).tobytes()
    return row in np.ascontiguousarray(array).tobytes()
