"""Any folder of class folders with GeoTIFF, PNG or JPEG chips of N bands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import BandSet, find_bands, get_bands, list_sensors, parse_bands
from rsdistill.classes import ClassInfo, readable
from rsdistill.datasets.base import DATASETS, SceneSource
from rsdistill.datasets.reading import SUFFIXES, RawChip, read_file, scan, to_bands, to_size
from rsdistill.errors import BandError, ChipError, DatasetError, OptionError, UnknownNameError


@dataclass(frozen=True)
class SourceFacts:
    """What is to be said of a dataset besides its pixels.

    Attributes:
        name: Registered name.
        gsd: Ground sampling distance in metres at ``side`` pixels.
        side: Pixels on a side that ``gsd`` holds for; None for the commonest side of the chips found.
        licence: Licence of the images.
        citation: How to cite the dataset.
    """

    name: str
    gsd: float
    side: int | None
    licence: str
    citation: str


class FileScenes(SceneSource):
    """Chips in class folders, each decoded once when the dataset is loaded.

    Args:
        folder: Holds one folder a class.
        facts: What is to be said of the dataset.
        stored: Bands of the files, in their order.
        wanted: Bands to return.
        describe: Name and sector of a class, by key.
        size: Pixels on a side of what :meth:`read` returns; None for the commonest side.
        classes: Keys of the classes to take; None for all. Others are never read.
        max_bad: Most unusable chips to go on without; None for one in a hundred, at most 20.

    Attributes:
        reader: How one file is read.

    Raises:
        DatasetError: If the folder is missing or empty, or too many chips are unusable.
        UnknownNameError: If a class is unknown.
    """

    reader = staticmethod(read_file)

    def __init__(
        self,
        folder: Path,
        facts: SourceFacts,
        stored: BandSet,
        wanted: BandSet,
        describe: Callable[[str], ClassInfo],
        size: int | None = None,
        classes: Sequence[str] | None = None,
        max_bad: int | None = None,
    ) -> None:
        check_options(size, max_bad)
        self._folder, self._stored = folder, stored
        self.name, self.licence, self.citation, self.bands = facts.name, facts.licence, facts.citation, wanted
        keys = chosen_classes(facts.name, class_folders(folder), classes)
        self.classes = tuple(describe(key) for key in keys)
        files = [class_files(folder / key) for key in keys]
        labels = np.repeat(np.arange(len(keys), dtype=np.int64), [len(paths) for paths in files])
        self.chip_ids = [path.relative_to(folder).as_posix() for paths in files for path in paths]
        found = scan(self._look, len(labels), facts.name, max_bad)
        self.chip_ids = [self.chip_ids[position] for position in found.good]
        self.labels = labels[found.good]
        self._groups = found.groups
        for label, info in enumerate(self.classes):
            if not (self.labels == label).any():
                raise DatasetError(
                    f"dataset '{self.name}': no chip of class '{info.key}' can be used; repair them or leave it out"
                )
        sides, counts = np.unique(found.sides, return_counts=True)
        common = int(sides[counts.argmax()])
        self.size = size or common
        self.gsd = facts.gsd * (facts.side or common) / self.size

    def path(self, index: int) -> Path:
        """The file of a chip."""
        return self._folder / self.chip_ids[index]

    def read(self, index: int) -> NDArray[Any]:
        """One chip (B, size, size) in sensor units; odd ones are cut to their central square.

        Raises:
            ChipError: If the file has changed since the dataset was loaded.
        """
        path = self.path(index)
        pixels = to_bands(self.reader(path), self._stored, self.bands, str(path))
        return to_size(pixels, self.size, self.bands.nodata)

    def duplicate_groups(self) -> NDArray[np.int64]:
        """Group number of each chip (N,): files of exactly equal pixels share one."""
        return self._groups

    def _look(self, index: int) -> NDArray[Any]:
        """All pixels of a chip's file, after checking that it fits the dataset."""
        path = self.path(index)
        raw = self.reader(path)
        to_bands(raw, self._stored, self.bands, str(path))
        return raw.pixels


def check_options(size: int | None, max_bad: int | None) -> None:
    """Refuse sizes and counts that mean nothing."""
    if size is not None and size < 1:
        raise OptionError(f"option size is {size}; give the pixels on a side of a chip, at least 1")
    if max_bad is not None and max_bad < 0:
        raise OptionError(f"option max_bad is {max_bad}; give the most chips to go on without, 0 or more")


def require_root(name: str, root: str | Path | None, holds: str) -> Path:
    """The root of a dataset on disk.

    Args:
        name: Of the dataset.
        root: What the user gave.
        holds: What lies there, for the message.

    Raises:
        OptionError: If none was given.
    """
    if root is None:
        raise OptionError(f"dataset '{name}' needs option root: the folder that holds {holds}")
    return Path(root).expanduser()


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders, sorted; hidden ones are not classes.

    Raises:
        DatasetError: If the folder is missing or has no class folders.
    """
    if not folder.is_dir():
        raise DatasetError(f"dataset folder {folder} does not exist or is no folder; correct root")
    try:
        keys = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    except OSError as error:
        raise DatasetError(f"dataset folder {folder} cannot be read: {error.strerror}") from error
    if not keys:
        raise DatasetError(
            f"dataset folder {folder} is empty of class folders: it needs one folder of chips a class; correct root"
        )
    return keys


def class_files(folder: Path) -> list[Path]:
    """Image files of a class, sorted by name.

    Raises:
        DatasetError: If there is none.
    """
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise DatasetError(f"class folder {folder} holds no {', '.join(SUFFIXES)} file; add chips or remove it")
    return files


def chosen_classes(name: str, known: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The classes to take, in the dataset's order.

    Raises:
        UnknownNameError: If one is unknown.
        OptionError: If none is left.
    """
    if wanted is None:
        return list(known)
    for key in wanted:
        if key not in known:
            raise UnknownNameError(f"class of {name}:", key, known)
    if not wanted:
        raise OptionError(f"option classes of dataset {name} is empty; name at least one, or leave it out for all")
    return [key for key in known if key in set(wanted)]


def chosen_bands(available: BandSet, wanted: str | Sequence[str] | None) -> BandSet:
    """Some bands of a dataset by name; None or the sensor's name for all.

    Raises:
        UnknownNameError: If a band is unknown.
    """
    if wanted is None or wanted == available.sensor:
        return available
    return available.select([wanted] if isinstance(wanted, str) else wanted)


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
        facts = SourceFacts("folder", _gsd(gsd, typical, folder), None, licence, citation)
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
