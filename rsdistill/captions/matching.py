"""Which chip a name in a captions file means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rsdistill.captions.base import listed
from rsdistill.errors import DatasetError

_SUFFIXES = {".tif", ".tiff", ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".jp2", ".npy"}


@dataclass(frozen=True)
class Matches:
    """How names and chips found each other.

    Attributes:
        chips: Name of the captions of each chip, None where there are none, (N,).
        unused: Names that mean no chip.
    """

    chips: tuple[str | None, ...]
    unused: tuple[str, ...]


def match_names(names: Iterable[str], chip_ids: Sequence[str]) -> Matches:
    """Find each name's chip, whatever folder, suffix and case it is written in.

    Class folder and stem together decide; the stem alone does where no two chips share it.

    Args:
        names: Names in a captions file.
        chip_ids: Ids of all chips of a dataset, such as ``Airport/airport_1.jpg``.

    Raises:
        DatasetError: If a name fits several chips.
    """
    stems = Counter(_parts(chip)[-1] for chip in chip_ids)
    positions = {_parts(chip): position for position, chip in enumerate(chip_ids)}
    unique = {_parts(chip)[-1]: p for p, chip in enumerate(chip_ids) if stems[_parts(chip)[-1]] == 1}
    found: dict[int, str] = {}
    unused, ambiguous = [], []
    for name in names:
        parts = _parts(name)
        position = positions.get(parts, unique.get(parts[-1]))
        if position is not None:
            found[position] = name
        elif stems[parts[-1]] > 1:
            ambiguous.append(name)
        else:
            unused.append(name)
    if ambiguous:
        raise DatasetError(
            f"{len(ambiguous)} name(s) of captions fit several chips: {listed(ambiguous)}; write the class folder "
            "before the name, as in forest/1.tif"
        )
    return Matches(tuple(found.get(position) for position in range(len(chip_ids))), tuple(unused))


def match_numbers(names: Iterable[str], chips: int) -> Matches:
    """Take names as running numbers from 1 on, over the chips in order of class and name, as UCM-Captions does.

    Args:
        names: Names in a captions file, such as ``1.tif``.
        chips: Number of chips of the dataset.

    Raises:
        DatasetError: If a name is no number, or the last number is not the number of chips.
    """
    by_number: dict[int, str] = {}
    for name in names:
        stem = _parts(name)[-1]
        if not stem.isdecimal():
            raise DatasetError(f"name '{name}' of captions is no running number; leave option match at 'name'")
        by_number[int(stem)] = name
    if min(by_number) < 1 or max(by_number) != chips:
        raise DatasetError(
            f"captions are numbered {min(by_number)} to {max(by_number)}, but the dataset has {chips} chips; numbers "
            "fit only a dataset loaded whole, with all its classes and no chip left out"
        )
    return Matches(tuple(by_number.get(position + 1) for position in range(chips)), ())


def _parts(name: str) -> tuple[str, ...]:
    """Class folder, where there is one, and stem of a name, in lower case."""
    path = PurePosixPath(name.replace("\\", "/").lower().strip())
    last = path.stem if path.suffix in _SUFFIXES else path.name
    return (*path.parts[-2:-1], last)
