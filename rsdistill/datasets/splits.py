"""Train, validation and test views that never overlap and are the same on every machine."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsdistill.datasets.base import SceneData, SceneSource, SceneView
from rsdistill.errors import OptionError, SplitError, UnknownNameError
from rsdistill.utils.provenance import digest

_SALT = "rsdistill train view"
_LENGTH = 32


def class_digests(data: SceneData) -> dict[str, str]:
    """Digest of the train chips of each class, by its key; of a prepared dataset those of its originals."""
    # A prepared dataset has lost the names of its originals, and kept these digests instead.
    kept = getattr(data.source, "train_digests", None)
    stored: dict[str, str] | None = None if kept is None else kept(data.train.indices)
    if stored is not None:
        return stored
    names, labels = np.asarray(data.train.chip_ids, object), data.train.labels
    return {
        info.key: digest([_SALT, data.name, info.key, sorted(names[labels == label])])
        for label, info in enumerate(data.classes)
    }


def split_digest(data: SceneData, classes: Sequence[str] | None = None) -> str:
    """Digest of the train view: equal for equal chips, whatever order, size or bands they are read in.

    Args:
        data: The dataset.
        classes: Keys of the classes that count; None for all.

    Raises:
        UnknownNameError: If a class is unknown.
    """
    known = class_digests(data)
    keys = sorted(known if classes is None else classes)
    for key in keys:
        if key not in known:
            raise UnknownNameError(f"class of {data.name}:", key, known)
    return digest([[key, known[key]] for key in keys])[:_LENGTH]


SCHEMES = ("published", "stratified", "torchgeo")
_TRAIN, _VAL = 0.8, 0.1

Positions = NDArray[np.int64]


class StraddlingDuplicatesWarning(UserWarning):
    """Official lists put exact copies of a test chip into train or val; the copies were left out."""


@dataclass(frozen=True)
class SplitOptions:
    """How to cut a dataset.

    Attributes:
        scheme: ``"stratified"`` (shares of each class), ``"published"`` (the split that papers
            report) or ``"torchgeo"`` (torchgeo's official lists).
        train: Share of each class to learn from, val included; 0.8 unless given. Stratified only.
        val: Share of train to cut off for validation; 0.1 unless given. Not for torchgeo, whose lists name val.
        seed: Which of the possible random splits to take; the official lists leave it no choice.

    Raises:
        UnknownNameError: If the scheme is unknown.
        OptionError: If a share is out of range or does not belong to the scheme.
    """

    scheme: str = "stratified"
    train: float | None = None
    val: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.scheme not in SCHEMES:
            raise UnknownNameError("split scheme", self.scheme, SCHEMES)
        if self.train is not None and self.scheme != "stratified":
            raise OptionError(f"split option train belongs to scheme 'stratified', not '{self.scheme}'; leave it out")
        if self.val is not None and self.scheme == "torchgeo":
            raise OptionError("split option val does not go with scheme 'torchgeo', whose lists name val; leave it out")
        if self.train is not None and not 0 < self.train < 1:
            raise OptionError(f"split option train is {self.train}; give a share between 0 and 1, both excluded")
        if self.val is not None and not 0 <= self.val < 1:
            raise OptionError(f"split option val is {self.val}; give a share of train from 0 to below 1")


@dataclass
class _Unit:
    """Chips that stay together, because their pixels are exactly equal; ``counts`` are those of each class."""

    key: str  # The chip id that comes first in the alphabet names the unit on every machine.
    members: list[int] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)


def split_scenes(source: SceneSource, options: SplitOptions | None = None) -> SceneData:
    """Cut a source into views.

    The chips of a class are ordered by a hash of seed and chip id, so that neither the order of
    files, nor other classes, nor a skipped chip elsewhere changes where a chip goes.

    Args:
        source: All chips.
        options: How to cut; the defaults of :class:`SplitOptions` if None.

    Returns:
        Views that share no chip and no two chips of equal pixels.

    Raises:
        SplitError: If a class has too few chips, or the dataset lacks the split asked for.
    """
    options = options or SplitOptions()
    if options.scheme == "torchgeo":
        return _official(source)
    units = _units(source, range(len(source)))
    if options.scheme == "stratified":
        share = _TRAIN if options.train is None else options.train
        learn = _draw(source, units, _shares(source, share, at_least=1, within=units), f"train/{options.seed}")
        test = _without(units, learn)
    else:
        learn, test = _published(source, units, options.seed)
    _require_every_class(source, options.scheme, learn, test)
    share = _VAL if options.val is None else options.val
    wanted = _shares(source, share, at_least=0, within=learn)
    val = _draw(source, learn, wanted, f"val/{options.seed}") if any(wanted) else []
    return _views(source, _without(learn, val), val, test)


def _published(source: SceneSource, units: list[_Unit], seed: int) -> tuple[list[_Unit], list[_Unit]]:
    """The split of the papers: learn and test units."""
    published = source.published_split
    if published is None:
        raise SplitError(f"dataset '{source.name}' has no published split; use scheme 'stratified'")
    if isinstance(published.train, float):
        wanted = _shares(source, published.train, at_least=1, within=units)
    else:
        wanted = _counts(source, published.train)
    learn = _draw(source, units, wanted, f"train/{seed}")
    test = _without(units, learn)
    if published.test is not None:
        # A chip that could not be read is missed in test, so that train keeps its published size.
        test = _draw(source, test, [published.test] * len(source.classes), f"test/{seed}", spare=0)
    return learn, test


def _counts(source: SceneSource, train: int) -> list[int]:
    """The same count for each class, of which each must have more."""
    for label, info in enumerate(source.classes):
        have = int((source.labels == label).sum())
        if have <= train:
            raise SplitError(
                f"class '{info.key}' of {source.name} has {have} chip(s), but its published split trains on {train} "
                "and tests on others; complete the dataset or use scheme 'stratified'"
            )
    return [train] * len(source.classes)


def _shares(source: SceneSource, share: float, at_least: int, within: Iterable[_Unit]) -> list[int]:
    """Chips a class that make up a share, leaving at least one over."""
    have = _class_sizes(source, within)
    return [max(min(round(share * int(n)), int(n) - 1), at_least) for n in have]


def _units(source: SceneSource, positions: Iterable[int]) -> list[_Unit]:
    """Chips gathered by their duplicate group."""
    groups = source.duplicate_groups()
    units: dict[int, _Unit] = {}
    for position in sorted(positions, key=lambda p: source.chip_ids[p]):
        unit = units.setdefault(int(groups[position]), _Unit(source.chip_ids[position]))
        unit.members.append(position)
        unit.counts[int(source.labels[position])] += 1
    return list(units.values())


def _draw(source: SceneSource, units: list[_Unit], wanted: list[int], salt: str, spare: int = 1) -> list[_Unit]:
    """Draw whole units at random until each class has the count wanted of it.

    The same salt draws the same chips; ``spare`` chips of each class stay behind.
    """
    left = _class_sizes(source, units)
    drawn: dict[str, _Unit] = {}
    ordered = sorted(units, key=lambda u: hashlib.sha256(f"{salt}/{u.key}".encode()).digest())

    def draw(unit: _Unit) -> None:
        drawn[unit.key] = unit
        for label, count in unit.counts.items():
            left[label] -= count

    # The smallest classes choose first: they have the fewest ways to be served.
    for label in sorted(range(len(wanted)), key=lambda c: int(left[c])):
        mine = [u for u in ordered if label in u.counts]
        free = [u for u in mine if u.key not in drawn]
        have = sum(u.counts[label] for u in mine if u.key in drawn)
        for unit in free:
            fits = have + unit.counts[label] <= wanted[label]
            if fits and all(left[c] - n >= spare for c, n in unit.counts.items()):
                draw(unit)
                have += unit.counts[label]
        if wanted[label] and not have and free:
            smallest = min(free, key=lambda u: u.counts[label])
            if all(left[c] - n >= spare for c, n in smallest.counts.items()):
                draw(smallest)
    return list(drawn.values())


def _class_sizes(source: SceneSource, units: Iterable[_Unit]) -> NDArray[np.int64]:
    """Chips of each class in some units."""
    sizes = np.zeros(len(source.classes), np.int64)
    for unit in units:
        for label, count in unit.counts.items():
            sizes[label] += count
    return sizes


def _without(units: list[_Unit], taken: list[_Unit]) -> list[_Unit]:
    """The units that were not taken."""
    keys = {unit.key for unit in taken}
    return [unit for unit in units if unit.key not in keys]


def _require_every_class(source: SceneSource, scheme: str, learn: list[_Unit], test: list[_Unit]) -> None:
    """Refuse a split in which a class is missing on one side."""
    in_learn, in_test = _class_sizes(source, learn), _class_sizes(source, test)
    for label, info in enumerate(source.classes):
        if in_learn[label] and in_test[label]:
            continue
        of_class = source.labels == label
        distinct = len(np.unique(source.duplicate_groups()[of_class]))
        raise SplitError(
            f"class '{info.key}' of {source.name} has {int(of_class.sum())} chip(s), {distinct} of them distinct; "
            f"the {scheme} split gives {in_learn[label]} to train and {in_test[label]} to test, and needs one in each: "
            "add chips or leave the class out"
        )


def _official(source: SceneSource) -> SceneData:
    """The official lists, less the copies of test chips that they put into train or val."""
    parts = source.official_split()
    groups = source.duplicate_groups()
    seen: set[int] = set()
    kept: dict[str, list[int]] = {}
    dropped: list[str] = []
    for part in ("test", "val", "train"):
        chips = [int(p) for p in parts[part]]
        kept[part] = [p for p in chips if int(groups[p]) not in seen]
        dropped += [source.chip_ids[p] for p in chips if int(groups[p]) in seen]
        seen.update(int(groups[p]) for p in chips)
    if dropped:
        warnings.warn(
            f"the official lists of {source.name} hold {len(dropped)} exact copy(ies) across views; "
            f"left out of train or val: {', '.join(dropped)}",
            StraddlingDuplicatesWarning,
            stacklevel=2,
        )
    units = {part: _units(source, positions) for part, positions in kept.items()}
    _require_every_class(source, "torchgeo", units["train"], units["test"])
    return _views(source, units["train"], units["val"], units["test"])


def _views(source: SceneSource, train: list[_Unit], val: list[_Unit], test: list[_Unit]) -> SceneData:
    """Views over units, each in the order of the source."""

    def view(units: list[_Unit]) -> SceneView:
        positions = sorted(position for unit in units for position in unit.members)
        return SceneView(source, np.asarray(positions, np.int64))

    return SceneData(source, view(train), view(val), view(test))
