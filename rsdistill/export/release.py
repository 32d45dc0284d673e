"""README.txt and CITATION: what a person who receives the folder must know."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsdistill.distilled import DistilledSet
from rsdistill.errors import ExportError
from rsdistill.export.metadata import CITATION, INDEX, MANIFEST, MOSAICS, PROJECT, STAC, TILES, Facts, Tile
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
    """What the folder holds, how to open it, and under which terms it may be used.

    Args:
        tiles: The tiles.
        facts: What they share.
        mosaics: Whether there are mosaics.
    """
    kind = "Synthetic image tiles" if facts.synthetic else "Real image tiles"
    height, width = facts.size
    optics = [
        f"  {number}. {band.name}" + (f" ({band.title})" if band.title else "") + _wavelength(band.centre)
        for number, band in enumerate(facts.bands, start=1)
    ]
    counts: dict[str, int] = {}
    for tile in tiles:
        counts[tile.class_name] = counts.get(tile.class_name, 0) + 1
    parts = [
        f"{kind}, made by rsdistill {package_version()} ({facts.method}) from {facts.dataset}",
        _section("Please note", [f"- {notice}" for notice in facts.notices]),
        _section("Licence of the dataset", [f"{facts.dataset}: {facts.licence}", *_cite(facts)]),
        _section(
            "How to open",
            [
                f"QGIS: double-click {PROJECT}. Or drag {INDEX} and any tile into a map: each brings its style.",
                "Any other program: each tile is a cloud-optimised GeoTIFF with band names, units and statistics.",
                "The folder can be moved, zipped or put on a share; all paths inside are relative.",
                "To check that nothing was changed or lost: rsdistill validate FOLDER",
            ],
        ),
        _section(
            "What is inside",
            [
                f"{TILES}/      {len(tiles)} GeoTIFFs, a folder a class, each with a QGIS style",
                *([f"{MOSAICS}/    a virtual mosaic (VRT) of each class and of all tiles"] if mosaics else []),
                f"{INDEX}  footprints with class, slot, seed, score, audit verdict, caption and path",
                f"{PROJECT}  the QGIS project",
                f"{STAC}/       a static STAC catalog, an item a tile",
                f"{MANIFEST}  provenance and checksums",
                f"{CITATION}    how to cite",
            ],
        ),
        _section(
            "Pixels",
            [
                f"{width} x {height} pixels of {facts.gsd:g} m, {facts.encoding.dtype}; "
                f"physical value = {facts.encoding.scale:g} x pixel + {facts.encoding.offset:g}; "
                f"nodata: {facts.encoding.nodata}",
                "Bands:",
                *optics,
            ],
        ),
        _section("Classes", [f"  {name}: {count} tiles" for name, count in counts.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def citation_text(facts: Facts) -> str:
    """How to cite the tiles, and the dataset behind them."""
    made = f"Tiles made by rsdistill {package_version()}, method {facts.method}, set {facts.seal[:16]}."
    source = facts.citation or f"The dataset {facts.dataset} (no citation recorded)."
    return f"{made}\n\nFrom the dataset:\n{source}\n\nLicence of the dataset: {facts.licence}\n"


def _section(title: str, lines: Sequence[str]) -> str:
    wrapped = [textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_long_words=False) for line in lines]
    return "\n".join([title, "-" * len(title), *wrapped])


def _cite(facts: Facts) -> list[str]:
    return [f"Cite: {' '.join(facts.citation.split())}"] if facts.citation else []


def _wavelength(centre: float | None) -> str:
    return "" if centre is None else f", {1000 * centre:.0f} nm"
