"""Tiles, index, catalog and QGIS project of a distilled set; loads no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsdistill.export.faults import Fault
    from rsdistill.export.georef import GeoRef, Place
    from rsdistill.export.validate import validate_folder
    from rsdistill.export.writer import export_tiles

_HOMES = {
    "GeoRef": "georef",
    "Place": "georef",
    "Fault": "faults",
    "export_tiles": "writer",
    "validate_folder": "validate",
}

__all__ = ["Fault", "GeoRef", "Place", "export_tiles", "validate_folder"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: rasterio and geopandas take their time."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
