"""Any folder of class folders with GeoTIFF, PNG or JPEG chips of N bands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rsdistill.bands import BandSet, find_bands, get_bands, list_sensors, parse_bands
from rsdistill.classes import ClassInfo, readable
from rsdistill.datasets.base import DATASETS
from rsdistill.datasets.chipfiles import Facts, FileScenes, chosen_classes, class_files, class_folders, require_root
from rsdistill.datasets.reading import RawChip, read_file
from rsdistill.errors import BandError, ChipError, DatasetError, OptionError

# So many files, spread over the dataset, tell what a typical one is like.
_SAMPLED = 9
_HOLDS = "one folder of chips a class"


@DATASETS.register("folder", summary="any folder of class folders with GeoTIFF, PNG or JPEG chips")
class FolderScenes(FileScenes):
    """A user's own scenes, one folder a class.

    GeoTIFFs whose bands are described are read by description, whatever their order, and may
    hold more bands than are asked for; others are read by position.

    Args:
        root: Holds one folder a class.
        size: Pixels on a side to resample to; None for the commonest side.
        bands: A sensor's name, band names, or a mapping as of ``BandSet.to_dict``, in the order of
            the files. Guessed as RGB for chips of three 8-bit bands.
        classes: Keys of the classes to take; None for all.
        gsd: Ground sampling distance of the files in metres; None to take it from their georeference.
        licence: Licence of the images.
        citation: How to cite them.
        max_bad: Most unusable chips to go on without; None for one in a hundred, at most 20.

    Raises:
        DatasetError: If the folder is missing or empty, or too many chips are unusable.
        BandError: If the bands cannot be guessed, or a file's descriptions contradict them.
        OptionError: If the GSD is neither given nor in the files.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        size: int | None = None,
        bands: str | Sequence[str] | dict[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        gsd: float | None = None,
        licence: str = "unspecified",
        citation: str = "",
        max_bad: int | None = None,
    ) -> None:
        folder = require_root("folder", root, _HOLDS)
        typical = _typical(folder, chosen_classes("folder", class_folders(folder), classes))
        described = _bands(bands, typical, folder)
        facts = Facts("folder", _gsd(gsd, typical, folder), None, licence, citation)
        super().__init__(folder, facts, described, described, _described, size, classes, max_bad)

    @classmethod
    def known_classes(cls, options: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
        """The class folders there are; see :meth:`SceneSource.known_classes`."""
        folder = require_root("folder", options.get("root"), _HOLDS)
        return tuple(_described(key) for key in class_folders(folder))


def _described(key: str) -> ClassInfo:
    """A class of a user's own: no taxonomy knows its sector, a policy may name it."""
    return ClassInfo(key, readable(key))


def _typical(folder: Path, keys: Sequence[str]) -> RawChip:
    """The commonest kind of chip among some that are spread over these classes of the folder.

    Raises:
        DatasetError: If none of them can be read.
    """
    files = [path for key in keys for path in class_files(folder / key)]
    chips, faults = [], []
    for position in np.unique(np.linspace(0, len(files) - 1, _SAMPLED).astype(int)):
        try:
            chips.append(read_file(files[position]))
        except ChipError as error:
            faults.append(error)
    if not chips:
        raise DatasetError(f"dataset folder {folder}: no chip of those tried can be read; the first: {faults[0]}")
    kinds = Counter(_kind(chip) for chip in chips)
    return next(chip for chip in chips if _kind(chip) == kinds.most_common(1)[0][0])


def _kind(chip: RawChip) -> tuple[int, str]:
    """Number and type of a chip's bands."""
    return len(chip.pixels), str(chip.pixels.dtype)


def _bands(spec: str | Sequence[str] | dict[str, Any] | None, typical: RawChip, folder: Path) -> BandSet:
    """The bands of the files: as the user says, or RGB where that is plain."""
    count, dtype = _kind(typical)
    if spec is None:
        if (count, dtype) != (3, "uint8"):
            raise BandError(
                f"dataset folder {folder} has chips of {count} band(s) of type {dtype}; say with option bands what "
                f"they are: a sensor ({', '.join(list_sensors())}), a list of names, or a description"
            )
        bands = get_bands("rgb")
    elif isinstance(spec, str | dict):
        bands = parse_bands(spec, get_bands("rgb"))
    else:
        bands = find_bands(list(spec), dtype)
    if bands.nodata is None and typical.nodata is not None:
        bands = replace(bands, nodata=typical.nodata)
    return bands


def _gsd(given: float | None, typical: RawChip, folder: Path) -> float:
    """Metres a pixel, as given or as georeferenced."""
    if given is not None:
        if given <= 0:
            raise OptionError(f"option gsd is {given}; give metres a pixel, more than 0")
        return given
    if typical.gsd is None:
        raise OptionError(
            f"chips in {folder} have no projected coordinate system to tell their ground sampling distance; "
            "give option gsd (data.options.gsd in a config) in metres a pixel"
        )
    return typical.gsd
