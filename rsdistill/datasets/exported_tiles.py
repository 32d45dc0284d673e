"""Exported tiles as a torchgeo dataset, also after a person edited them in QGIS."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import NonGeoClassificationDataset

from rsdistill.bands import NATURAL_COLOUR, BandSet
from rsdistill.datasets.aid import plot_sample
from rsdistill.errors import ArtifactError, ChipError, DatasetError
from rsdistill.export.encoding import Encoding
from rsdistill.export.metadata import INDEX, INDEX_LAYER
from rsdistill.export.tile_validation import read_expected

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLUMNS = ("path", "label", "class_name")


class DistilledTiles(NonGeoClassificationDataset):  # type: ignore[misc,unused-ignore]
    """A folder of tiles written by :func:`rsdistill.export.export_tiles`.

    The tile index (GeoPackage) decides what belongs to the dataset, so that it can be
    edited in QGIS: a row that is deleted, or whose tile is, is left out; the readable
    name in the column ``class_name`` is the class. A class renamed as a whole keeps
    its label; tiles moved to a new name make a new class with the next free label.

    Labels of a folder that nobody edited are those of the set.

    Args:
        root: The exported folder.
        transforms: A function that takes a sample and returns a changed one.
        bands: Names of the bands to read, in the order wanted; None for all.

    Attributes:
        classes: Readable names of the classes; labels point into them.
        bands: The bands of every image.
        gsd: Ground sampling distance in metres.

    Raises:
        DatasetError: If the folder is not an exported one, its index is damaged, or no tile is left.
        UnknownNameError: If a band is unknown.
    """

    def __init__(
        self,
        root: Path | str,
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        bands: Sequence[str] | None = None,
    ) -> None:
        folder = Path(root)
        try:
            expected, _ = read_expected(folder)
        except ArtifactError as error:
            raise DatasetError(str(error)) from error
        all_bands = expected.facts.bands
        self.bands: BandSet = all_bands if bands is None else all_bands.select(bands)
        self.gsd = expected.facts.gsd
        self._positions = all_bands.indices(self.bands.names)
        self._encoding = expected.facts.encoding
        rows = _read_rows(folder)
        names = _class_names([info.name for info in expected.classes], rows)
        self._found = [
            (str(_inside(folder, path)), names.index(name))
            for path, name in zip(rows["path"], rows["class_name"], strict=True)
            if _inside(folder, path).is_file()
        ]
        if not self._found:
            raise DatasetError(f"{folder / INDEX} lists no tile that is there; export again")
        self._names = names
        super().__init__(root=str(folder), transforms=transforms, loader=self._read)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Classes as the index names them, in place of folder names."""
        return self._names, {name: label for label, name in enumerate(self._names)}

    def make_dataset(self, *_: Any, **__: Any) -> list[tuple[str, int]]:  # type: ignore[override,unused-ignore]
        """Tiles and labels as the index lists them, in place of a search through folders."""
        return self._found

    def plot(self, sample: dict[str, Any], show_titles: bool = True, suptitle: str | None = None) -> Figure:
        """Plot a sample in natural colour, bands by wavelength; see :func:`rsdistill.datasets.aid.plot_sample`."""
        from rsdistill.imaging.composites import to_rgb

        picture = to_rgb(sample["image"].numpy()[None], self.bands, NATURAL_COLOUR)[0]
        return plot_sample(picture, sample, self.classes, show_titles, suptitle)

    def _read(self, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """One tile of shape (y, x, band) in sensor units."""
        return read_tile(path, self._encoding, self._positions).transpose(1, 2, 0).astype(np.float32)


def read_tile(path: str | os.PathLike[str], encoding: Encoding, bands: Sequence[int] | None = None) -> NDArray[Any]:
    """Pixels of one tile.

    Args:
        path: The tile.
        encoding: How its pixels are stored.
        bands: Positions of the bands wanted, None for all.

    Returns:
        Values of shape (band, y, x) in sensor units, in the stored type where that is exact.

    Raises:
        ChipError: If the file cannot be read, or lacks a band.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as source:
            stored = source.read(None if bands is None else [position + 1 for position in bands])
    except (RasterioError, IndexError) as error:
        raise ChipError(f"tile {path} cannot be read ({error}); export it again") from error
    return encoding.decode(stored)


def _read_rows(folder: Path) -> pd.DataFrame:
    """The rows of the index, by label and slot."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    path = folder / INDEX
    if not path.is_file():
        raise DatasetError(f"{path} is missing; it says which tiles belong to the dataset")
    try:
        rows = pyogrio.read_dataframe(path, layer=INDEX_LAYER, read_geometry=False)
    except (DataSourceError, DataLayerError) as error:
        raise DatasetError(f"{path} cannot be read as GeoPackage ({error}); export again") from error
    lacking = [column for column in _COLUMNS if column not in rows or rows[column].isna().any()]
    if lacking:
        raise DatasetError(f"{path}: column {', '.join(lacking)} is missing or has empty rows; fill it in")
    order = [column for column in ("label", "slot") if column in rows]
    ordered: pd.DataFrame = rows.sort_values(order, kind="stable")
    return ordered


def _class_names(original: Sequence[str], rows: pd.DataFrame) -> list[str]:
    """Names of the classes after the index was edited; those of the set keep their labels."""
    names = list(original)
    for label, name in enumerate(original):
        used = set(rows.loc[rows["label"] == label, "class_name"])
        if len(used) == 1 and name not in set(rows["class_name"]) and not used & set(original):
            names[label] = used.pop()
    return names + sorted(set(rows["class_name"]) - set(names))


def _inside(folder: Path, path: str) -> Path:
    """Path of a tile, refused where it leads out of the folder."""
    found = (folder / path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise DatasetError(f"{folder / INDEX} lists {path}, which lies outside the folder; use relative paths")
    return found
