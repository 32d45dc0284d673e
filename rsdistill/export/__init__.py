"""Tiles, index, catalog and QGIS project of a distilled set; loads no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
