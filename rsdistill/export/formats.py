"""Further files of an export, by name: each format writes some beside the tiles; the manifest lists them all."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsdistill.errors import ExportError, OptionError
from rsdistill.export.metadata import CITATION, GEOPARQUET, INDEX, INDEX_LAYER, MANIFEST, PROJECT, README, TILES
from rsdistill.registry import Registry

if TYPE_CHECKING:
    from rsdistill.distilled import DistilledSet

ExportFormat = Callable[["DistilledSet", Path], Sequence[Path]]
"""Called as ``format(tiles, folder)`` once tiles, index and catalog are in the folder; returns the files it wrote."""

EXPORT_FORMATS: Registry[Sequence[Path]] = Registry("export format", "rsdistill.export.formats")
_GEOPARQUET_NAME = "geoparquet"
_OWN = (CITATION, INDEX, MANIFEST, PROJECT, README)


@EXPORT_FORMATS.register(_GEOPARQUET_NAME, summary="the tile index as GeoParquet, beside the GeoPackage")
def write_geoparquet(tiles: DistilledSet, folder: Path) -> list[Path]:
    """Write the tile index once more, as GeoParquet.

    Args:
        tiles: The set; its index is in the folder already.
        folder: The exported folder.
    """
    import geopandas

    frame = geopandas.read_file(folder / INDEX, layer=INDEX_LAYER, engine="pyogrio")
    path = folder / GEOPARQUET
    frame.to_parquet(path, index=False)
    return [path]


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """The formats to write, each once, in the order given.

    Raises:
        UnknownNameError: If a format is unknown.
        OptionError: If GeoParquet is asked for and pyarrow is missing.
    """
    for name in names:
        EXPORT_FORMATS.get(name)
    if _GEOPARQUET_NAME in names and importlib.util.find_spec("pyarrow") is None:
        raise OptionError("GeoParquet needs the package pyarrow; install it, or leave out geoparquet")
    return tuple(dict.fromkeys(names))


def write_formats(names: Sequence[str], tiles: DistilledSet, folder: Path) -> list[str]:
    """Write further files into an export whose tiles, index and catalog are complete.

    Args:
        names: The formats.
        tiles: The set, without what the audit left out.
        folder: The exported folder.

    Returns:
        Paths of the files below the folder, with forward slashes, for the manifest.

    Raises:
        ExportError: If a format names a file that it did not write, or that is not its own.
    """
    written: list[str] = []
    for name in names:
        written.extend(_checked(name, EXPORT_FORMATS.get(name).factory(tiles, folder), folder))
    return sorted(set(written))


def _checked(name: str, paths: Sequence[Path], folder: Path) -> Iterator[str]:
    root = folder.resolve()
    for path in paths:
        place = (folder / path).resolve() if not path.is_absolute() else path.resolve()
        if not place.is_file() or not place.is_relative_to(root):
            raise ExportError(f"export format '{name}' says it wrote {path}, which is no file in the exported folder")
        below = place.relative_to(root).as_posix()
        if below in _OWN or below.startswith(f"{TILES}/"):
            raise ExportError(f"export format '{name}' wrote {below}, which belongs to the export; use another name")
        yield below
