"""Fake copies of datasets on disk, and sources that live in memory."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneSource

LAYOUTS = {
    "ucmerced": ("UCMerced_LandUse/Images", ".tif"),
    "resisc45": ("NWPU-RESISC45", ".jpg"),
    "eurosat": ("ds/images/remote_sensing/otherDatasets/sentinel_2/tif", ".tif"),
    "aid": ("AID", ".jpg"),
}
# Order of the planes in EuroSAT's files.
EUROSAT_PLANES = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")


def write_raster(path, pixels, descriptions=None, nodata=None, gsd=None):
    """One GeoTIFF or PNG of planes (P, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if gsd is None else {"crs": CRS.from_epsg(32631), "transform": Affine(gsd, 0, 4e5, 0, -gsd, 5e6)}
    options = {"driver": "PNG" if path.suffix == ".png" else "GTiff", "nodata": nodata, "dtype": pixels.dtype, **place}
    count, height, width = pixels.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(path, "w", count=count, height=height, width=width, **options)
    with file:
        file.write(pixels)
        for plane, text in enumerate(descriptions or (), 1):
            file.set_band_description(plane, text)


def write_photo(path, pixels):
    """One 8-bit image of planes (P, H, W); JPEG by default suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(path)


def noise(seed, planes=3, side=16, dtype="uint8"):
    """Random planes (P, side, side), valid for the sensors in use."""
    high = 256 if dtype == "uint8" else 10000
    return np.random.default_rng(seed).integers(1, high, (planes, side, side)).astype(dtype)


def write_dataset(root: Path, name: str, classes=("Beach", "Forest"), per_class=6, side=16) -> Path:
    """A small copy of a known dataset, without split lists; returns the folder of class folders."""
    layout, suffix = LAYOUTS[name]
    for label, key in enumerate(classes):
        for number in range(per_class):
            path = root / layout / key / f"{key}_{number}{suffix}"
            seed = 1000 * label + number
            if name == "eurosat":
                write_raster(path, noise(seed, 13, side, "uint16"), gsd=10.0)
            else:
                write_photo(path, noise(seed, 3, side))
    return root / layout


def write_folder(root: Path, classes=("farm", "port"), per_class=6, side=16) -> Path:
    """A folder of class folders of RGB PNGs."""
    for label, key in enumerate(classes):
        for number in range(per_class):
            write_raster(root / key / f"{number}.png", noise(1000 * label + number, 3, side))
    return root


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def serve(folder: Path):
    """Address of a server on this machine that hands out the files of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ListedScenes(SceneSource):
    """A source that knows labels and duplicates alone."""

    name, licence, citation, gsd = "listed", "", "", 1.0

    def __init__(self, labels, groups=None, published=None):
        self.labels = np.asarray(labels, np.int64)
        self.classes = tuple(ClassInfo(f"c{k}", f"c{k}") for k in range(int(self.labels.max()) + 1))
        self.bands = get_bands("rgb")
        self.chip_ids = [f"c{label}/{position:05d}.tif" for position, label in enumerate(self.labels)]
        self._groups = np.arange(len(self.labels)) if groups is None else np.asarray(groups, np.int64)
        self.published_split = published

    def read(self, index):
        return np.full((3, 4, 4), index % 256, np.uint8)

    def duplicate_groups(self):
        return self._groups
