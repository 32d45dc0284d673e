"""Where things lie in an exported folder, and names that every file system takes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

TILES = "tiles"
MOSAICS = "mosaics"
STAC = "stac"
INDEX = "index.gpkg"
INDEX_LAYER = "tiles"
GEOPARQUET = "index.parquet"
PROJECT = "project.qgz"
MANIFEST = "manifest.json"
README = "README.txt"
CITATION = "CITATION"
ALL = "all-tiles"

_LONGEST = 60
_FEWEST_DIGITS = 3
# Names that Windows keeps for devices, whatever the ending.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def file_safe(name: str) -> str:
    """A name of letters, digits, hyphens and underscores only; empty if nothing of it is left.

    Accents are dropped (``Dünen`` becomes ``Dunen``), anything else becomes a hyphen.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:_LONGEST].rstrip("-")
    return f"{safe}-" if safe.lower() in _RESERVED else safe


def file_safe_names(names: Sequence[str]) -> list[str]:
    """File-safe names, all different even where upper and lower case are one.

    Args:
        names: Class keys; those that share a safe form, or have none, get a number.

    Returns:
        One name for each, in order.
    """
    taken: set[str] = {ALL}
    result = []
    for position, name in enumerate(names):
        stem = file_safe(name) or f"class-{position}"
        safe, number = stem, 2
        while safe.lower() in taken:
            safe, number = f"{stem}-{number}", number + 1
        taken.add(safe.lower())
        result.append(safe)
    return result


def tile_stems(folders: Sequence[str], slots: Sequence[int]) -> list[str]:
    """Names of tiles without ending, such as ``forest_007``: sorted by name they are sorted by slot."""
    digits = max(_FEWEST_DIGITS, len(str(max(slots, default=0))))
    return [f"{folder}_{slot:0{digits}d}" for folder, slot in zip(folders, slots, strict=True)]


def tile_path(folder: str, stem: str) -> str:
    """Path of a tile below the exported folder, with forward slashes on every system."""
    return f"{TILES}/{folder}/{stem}.tif"
