"""README.txt and CITATION: what a person who receives the folder must know."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsdistill.distilled import DistilledSet
from rsdistill.errors import ExportError
from rsdistill.export.metadata import Facts, Tile, fill
from rsdistill.utils.provenance import package_version

BLOCKED = "block"


class BlockedTilesWarning(UserWarning):
    """The audit blocked tiles; they were left out, or written because that was asked for."""


@dataclass(frozen=True)
class Gate:
    """What was done with blocked tiles.

    Attributes:
        found: Blocked tiles in the set.
        of: Tiles in the set.
        left_out: Tiles that were left out.
        notice: A sentence for whoever receives the tiles; None where no tile was blocked.
        emptied: Keys of the classes that lost all their tiles.
    """

    found: int
    of: int
    left_out: int
    notice: str | None
    emptied: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain types for the manifest."""
        return {
            "blocked": self.found,
            "of": self.of,
            "left_out": self.left_out,
            "let_through": self.found - self.left_out,
            "emptied_classes": list(self.emptied),
        }


def pass_gate(tiles: DistilledSet, allow_blocked: bool) -> tuple[DistilledSet, Gate]:
    """The tiles that may be written.

    Blocked tiles of generated sets stay behind unless they are allowed. A set that says of itself that it holds
    real pixels claims no privacy that a copy would break, so its tiles are written with their verdicts.

    Args:
        tiles: The set.
        allow_blocked: Whether blocked tiles may be written.

    Returns:
        The tiles to write, and what was done.

    Raises:
        ExportError: If no tile is left.
    """
    blocked = np.array([verdict == BLOCKED for verdict in tiles.verdict or ()], bool)
    found, of = int(blocked.sum()), len(tiles)
    if not found:
        return tiles, Gate(0, of, 0, None)
    if not tiles.is_synthetic:
        return tiles, Gate(found, of, 0, f"The audit marked {found} of {of} tiles as copies; they are real images.")
    if allow_blocked:
        notice = f"The audit blocked {found} of {of} tiles as likely copies of originals; they were let through."
        return tiles, Gate(found, of, 0, notice)
    if found == of:
        raise ExportError(
            f"the audit blocked all {of} tiles as likely copies of originals, so none may be exported; "
            "make another set, or write them nonetheless with export.allow_blocked: true (--allow-blocked)"
        )
    kept = tiles.subset(~blocked)
    lost = sorted({tiles.classes[label].key for label in set(tiles.label.tolist()) - set(kept.label.tolist())})
    notice = f"The audit blocked {found} of {of} tiles of the set as likely copies of originals; they were left out."
    if lost:
        notice += f" No tile is left of: {', '.join(lost)}."
    return kept, Gate(found, of, found, notice, tuple(lost))


_WIDTH = 100


def readme_text(tiles: Sequence[Tile], facts: Facts, mosaics: bool) -> str:
    """What the folder holds, how to open it, and under which terms it may be used."""
    counts = Counter(tile.class_name for tile in tiles)
    text = fill("README.txt.j2", facts=facts, counts=counts, mosaics=mosaics, version=package_version())
    title, *lines = text.splitlines()
    wrapped = [textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_long_words=False) for line in lines]
    return "\n".join([title, *wrapped]) + "\n"


def citation_text(facts: Facts) -> str:
    """How to cite the tiles, and the dataset behind them."""
    made = f"Tiles made by rsdistill {package_version()}, method {facts.method}, set {facts.seal[:16]}."
    source = facts.citation or f"The dataset {facts.dataset} (no citation recorded)."
    return f"{made}\n\nFrom the dataset:\n{source}\n\nLicence of the dataset: {facts.licence}\n"
