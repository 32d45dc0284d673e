"""Tiles, index, catalog and QGIS project of a distilled set; loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsdistill.lazy import lazy_names

if TYPE_CHECKING:
    from rsdistill.export.faults import Fault
    from rsdistill.export.georef import GeoRef, Place
    from rsdistill.export.validate import validate_folder
    from rsdistill.export.writer import export_tiles


__all__ = ["Fault", "GeoRef", "Place", "export_tiles", "validate_folder"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "faults": ("Fault",),
        "georef": ("GeoRef", "Place"),
        "validate": ("validate_folder",),
        "writer": ("export_tiles",),
    },
)
