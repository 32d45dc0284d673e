"""What is said of an exported set and of each of its tiles, gathered once and written everywhere alike."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from rsdistill.bands import BandSet
from rsdistill.distilled import DistilledSet
from rsdistill.errors import ArtifactError, ExportError
from rsdistill.export.encoding import Encoding, choose_encoding
from rsdistill.export.georef import ENGINEERING, REAL_PLACE, GeoRef, Spot
from rsdistill.utils.provenance import REAL, SYNTHETIC, package_version

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


FORMAT = "rsdistill.tiles/1"
TILE_FORMAT = "rsdistill.tile/1"

_NON_COMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non[\s_-]?commercial", re.IGNORECASE)
SYNTHETIC_NOTICE = "Synthetic image made by a generative model. It is no photograph and shows no place on Earth."
NON_COMMERCIAL_NOTICE = (
    "Derived from data licensed for NON-COMMERCIAL use only: the tiles may be used under the same limit."
)
_UNKNOWN_LICENCE = "unspecified: ask whoever published the dataset before passing the tiles on"


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile, without its pixels.

    Attributes:
        position: Its place in the set.
        name: Name without ending, such as ``forest_007``.
        path: Path below the folder, with forward slashes.
        class_key: Key of its class.
        class_name: Readable name of its class.
        sector: Sector of its class, None if it has none.
        label: Position of its class.
        slot: Its running number within the class.
        caption: What it shows, in words.
        score: The teacher's score, None where there is none.
        verdict: The audit's verdict, None where there was no audit.
        spot: Where it is drawn.
    """

    position: int
    name: str
    path: str
    class_key: str
    class_name: str
    sector: str | None
    label: int
    slot: int
    caption: str
    score: float | None
    verdict: str | None
    spot: Spot


@dataclass(frozen=True)
class Facts:
    """What all tiles of one export share.

    Attributes:
        bands: Bands of the set.
        encoding: How pixels are stored.
        size: Height and width of every tile in pixels.
        gsd: Metres a pixel as drawn.
        georeferencing: ``engineering``, ``anchor`` or ``real``.
        source_type: IPTC digital source type.
        dataset: Name of the dataset that the set was made from.
        licence: Licence of that dataset.
        citation: How to cite that dataset.
        notices: What a user must know, a sentence each.
        provenance: The set's manifest.
        seal: The set's seal.
    """

    bands: BandSet
    encoding: Encoding
    size: tuple[int, int]
    gsd: float
    georeferencing: str
    source_type: str
    dataset: str
    licence: str
    citation: str
    notices: tuple[str, ...]
    provenance: dict[str, Any]
    seal: str

    @property
    def synthetic(self) -> bool:
        """Whether the images were generated."""
        return self.source_type != REAL

    @property
    def seed(self) -> int | None:
        """Seed of the set, None where it is not known."""
        seed = self.provenance.get("seed")
        return int(seed) if isinstance(seed, int) else None

    @property
    def method(self) -> str:
        """Name of the method that made the set."""
        return str(self.provenance.get("method") or "unknown method")

    @cached_property
    def document(self) -> dict[str, Any]:
        """Plain types for JSON: what each tile says besides its own facts."""
        return {
            "format": TILE_FORMAT,
            "software": f"rsdistill {package_version()}",
            "digital_source_type": self.source_type,
            "georeferencing": self.georeferencing,
            "gsd": self.gsd,
            "size": list(self.size),
            "bands": self.bands.to_dict(),
            "encoding": self.encoding.to_dict(),
            "dataset": {"name": self.dataset, "licence": self.licence, "citation": self.citation},
            "notices": list(self.notices),
            "provenance": self.provenance,
            "set": self.seal,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Facts:
        """Rebuild the facts from :attr:`document`.

        Raises:
            ArtifactError: If a part is missing or of another kind.
        """
        try:
            height, width = document["size"]
            dataset = document["dataset"]
            return cls(
                bands=BandSet.from_dict(document["bands"]),
                encoding=Encoding.from_dict(document["encoding"]),
                size=(int(height), int(width)),
                gsd=float(document["gsd"]),
                georeferencing=str(document["georeferencing"]),
                source_type=str(document["digital_source_type"]),
                dataset=str(dataset["name"]),
                licence=str(dataset["licence"]),
                citation=str(dataset["citation"]),
                notices=tuple(map(str, document["notices"])),
                provenance=dict(document["provenance"]),
                seal=str(document["set"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the facts of the export are damaged ({error!r}); export again") from error


def is_non_commercial(licence: str) -> bool:
    """Whether a licence forbids commercial use, by its words or its Creative Commons letters."""
    return bool(_NON_COMMERCIAL.search(licence))


def gather_facts(
    tiles: DistilledSet, georef: GeoRef, dtype: str | None = None, audit_notice: str | None = None
) -> Facts:
    """What all tiles of a set share.

    Args:
        tiles: The set.
        georef: How its tiles are laid out.
        dtype: Pixel type of the tiles; None for that of the set.
        audit_notice: What was done with tiles that the audit blocked; None where there were none.

    Raises:
        ExportError: If the set is empty or the pixel type does not fit.
    """
    if not len(tiles) or 0 in tiles.image.shape:
        raise ExportError(f"set of shape {tiles.image.shape} holds no pixels; distil at least one image")
    manifest = tiles.manifest
    dataset = manifest.get("dataset")
    described = dataset if isinstance(dataset, dict) else {"name": dataset}
    source_type = str(manifest.get("digital_source_type") or (SYNTHETIC if tiles.is_synthetic else REAL))
    licence = str(described.get("licence") or _UNKNOWN_LICENCE)
    name = str(described.get("name") or "unknown dataset")
    notices = [
        SYNTHETIC_NOTICE if source_type != REAL else f"Real image of the dataset {name}, under its licence: {licence}."
    ]
    if is_non_commercial(licence):
        notices.append(NON_COMMERCIAL_NOTICE)
    if georef.kind != REAL_PLACE:
        notices.append(_map_notice(georef))
    if audit_notice is not None:
        notices.append(audit_notice)
    height, width = tiles.image.shape[2:]
    return Facts(
        bands=tiles.bands,
        encoding=choose_encoding(tiles.bands, dtype),
        size=(int(height), int(width)),
        gsd=float(georef.gsd or tiles.gsd),
        georeferencing=georef.kind,
        source_type=source_type,
        dataset=name,
        licence=licence,
        citation=str(described.get("citation") or ""),
        notices=tuple(notices),
        provenance=_plain(manifest),
        seal=tiles.seal(),
    )


def list_tiles(tiles: DistilledSet, georef: GeoRef) -> list[Tile]:
    """Every tile of a set with its name and place, in the set's order.

    The grid has a row for each class that has images, in the order of the classes.

    Raises:
        ExportError: If the layout does not fit the set.
    """
    folders = file_safe_names([info.key for info in tiles.classes])
    slots = [int(slot) for slot in tiles.slots]
    present = np.unique(tiles.label)
    rows = [int(row) for row in np.searchsorted(present, tiles.label)]
    height, width = (int(side) for side in tiles.image.shape[2:])
    spots = georef.spots(rows, slots, (height, width), tiles.gsd, tiles.is_synthetic)
    stems = tile_stems([folders[label] for label in tiles.label], slots)
    result = []
    for position, (label, slot, stem, spot) in enumerate(zip(tiles.label, slots, stems, spots, strict=True)):
        info, score = tiles.classes[label], float(tiles.score[position])
        result.append(
            Tile(
                position=position,
                name=stem,
                path=f"{TILES}/{folders[label]}/{stem}.tif",
                class_key=info.key,
                class_name=info.name,
                sector=info.sector,
                label=int(label),
                slot=slot,
                caption=str(tiles.caption[position]),
                score=score if math.isfinite(score) else None,
                verdict=None if tiles.verdict is None else str(tiles.verdict[position]),
                spot=spot,
            )
        )
    return result


def _map_notice(georef: GeoRef) -> str:
    if georef.kind == ENGINEERING:
        return "Its place on the map is a cell of a drawing grid, not a place on Earth."
    return f"It is drawn at a place in EPSG:{georef.epsg} that it does not show: the position means nothing."


def _plain(value: Any) -> Any:
    """The same in types that strict JSON has: what is not finite becomes null, anything else its text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def fill(template: str, **values: Any) -> str:
    """A plain text from a template; a name that it lacks is an error."""
    return _environment(escape=False).get_template(template).render(**values)


def fill_xml(template: str, **values: Any) -> str:
    """An XML document from a template, indented.

    Raises:
        ExportError: If a value holds a character that XML has not.
    """
    try:
        root = ET.fromstring(_environment(escape=True).get_template(template).render(**values))
    except ET.ParseError as error:
        raise ExportError(f"a class or dataset has a name that XML cannot hold ({error}); rename it") from error
    for element in root.iter():
        element.text = element.text if element.text and element.text.strip() else None
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


@cache
def _environment(escape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("rsdistill.export"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
