"""README.txt and CITATION: what a person who receives the folder must know."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rsdistill.export.facts import Facts, Tile
from rsdistill.export.layout import CITATION, INDEX, MANIFEST, MOSAICS, PROJECT, STAC, TILES
from rsdistill.provenance import package_version

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
