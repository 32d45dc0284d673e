"""What is wrong with an exported folder, and what the folder's manifest says it should be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsdistill.classes import ClassInfo
from rsdistill.errors import ArtifactError
from rsdistill.export.facts import FORMAT, Facts
from rsdistill.export.layout import MANIFEST
from rsdistill.provenance import digest


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: Path below the exported folder, with forward slashes.
        what: What is wrong with it, in words.
    """

    file: str
    what: str

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class Expected:
    """What the manifest says.

    Attributes:
        facts: What all tiles share.
        document: The same as the JSON that each tile repeats.
        classes: The classes of the set, in the order of their labels.
        tiles: The listing of each tile.
        systems: CRSs of the tiles as WKT.
        mosaics: Paths of the mosaics.
        files: sha256 of other files, by path.
        geoparquet: Whether the index is also there as GeoParquet.
    """

    facts: Facts
    document: dict[str, Any]
    classes: tuple[ClassInfo, ...]
    tiles: list[dict[str, Any]]
    systems: list[str]
    mosaics: list[str]
    files: dict[str, str]
    geoparquet: bool


def read_expected(folder: Path) -> tuple[Expected, list[Fault]]:
    """Read the manifest.

    Args:
        folder: The exported folder.

    Returns:
        What it says, and its own faults.

    Raises:
        ArtifactError: If it is missing or too damaged to check anything by.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ArtifactError(f"{path} is of format {manifest['format']}, not {FORMAT}; use the version that made it")
        expected = Expected(
            facts=Facts.from_document(manifest["facts"]),
            document=manifest["facts"],
            classes=tuple(ClassInfo(**info) for info in manifest["classes"]),
            tiles=list(manifest["tiles"]),
            systems=list(manifest["crs"]),
            mosaics=list(manifest["mosaics"]),
            files=dict(manifest["files"]),
            geoparquet=bool(manifest["options"]["geoparquet"]),
        )
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} has no {MANIFEST}; name a folder made by rsdistill export") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); export again") from error
    sealed = {key: value for key, value in manifest.items() if key != "seal"}
    altered = digest(sealed) != manifest.get("seal")
    return expected, [Fault(MANIFEST, "was altered: its seal does not match its content")] if altered else []
