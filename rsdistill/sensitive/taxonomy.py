"""The taxonomy: sectors of sensitive categories, and the sector of every class of the known datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from rsdistill.classes import ClassInfo, readable
from rsdistill.errors import OptionError
from rsdistill.utils.io import YamlKind, parse_yaml
from rsdistill.utils.options import parse_options
from rsdistill.utils.provenance import digest

NO_SECTOR = "none"
"""What files say of a class that belongs to no sector; a class that nobody assigned has not even that."""

_FILE, _FORMAT = "taxonomy.yaml", "rsdistill-taxonomy/1"
_KIND = YamlKind("taxonomy", OptionError, "install the package again", "'sectors:' and 'datasets:'")


@dataclass(frozen=True)
class Sector:
    """One sector.

    Attributes:
        title: Its name in words.
        covers: What belongs to it.
        source: Key of the source it follows.
        counterparts: What it is called there; several where the source tells more apart.
    """

    title: str
    covers: str
    source: str
    counterparts: tuple[str, ...]


@dataclass(frozen=True)
class Assignment:
    """The sector of one class.

    Attributes:
        sector: Key of the sector, or ``none``.
        reason: Why, in a few words.
        name: Readable name of the class where its key does not read well.
    """

    sector: str
    reason: str
    name: str | None = None


@dataclass(frozen=True)
class Taxonomy:
    """Sectors and the classes assigned to them.

    Attributes:
        sources: Citations, by key.
        sectors: Sectors, by key.
        datasets: Class keys to assignments, by name of the dataset.
        digest: sha256 of all that.
    """

    sources: Mapping[str, str]
    sectors: Mapping[str, Sector]
    datasets: Mapping[str, Mapping[str, Assignment]]
    digest: str

    def classes(self, dataset: str) -> tuple[ClassInfo, ...]:
        """The classes of a dataset; none if it is not known."""
        return tuple(self.class_info(dataset, key) for key in self.datasets.get(dataset, {}))

    def class_info(self, dataset: str, key: str) -> ClassInfo:
        """Key, readable name and sector of a class; one that is not known has no sector."""
        found = self.datasets.get(dataset, {}).get(key)
        if found is None:
            return ClassInfo(key, readable(key))
        sector = None if found.sector == NO_SECTOR else found.sector
        return ClassInfo(key, found.name or readable(key), sector)


@cache
def load_taxonomy() -> Taxonomy:
    """The taxonomy that comes with the package."""
    text = (resources.files(__package__) / _FILE).read_text(encoding="utf-8")
    return parse_taxonomy(parse_yaml(text, _FILE, _KIND).values)


def parse_taxonomy(values: Mapping[str, Any]) -> Taxonomy:
    """Build a taxonomy from plain values.

    Raises:
        OptionError: If a part is missing or does not fit.
    """
    sectors = {key: parse_options(Sector, value, f"sectors.{key}") for key, value in values["sectors"].items()}
    datasets = {
        name: {key: parse_options(Assignment, value, f"{name}.{key}") for key, value in classes.items()}
        for name, classes in values["datasets"].items()
    }
    return Taxonomy(dict(values["sources"]), sectors, datasets, digest(values))
