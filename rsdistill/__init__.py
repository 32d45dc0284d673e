"""Distil remote-sensing scene datasets into small synthetic ones.

Names are imported when first used, so that ``import rsdistill`` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsdistill.bands import Band, BandSet, get_bands
    from rsdistill.captions import Captions, create_captioner, list_captioners
    from rsdistill.classes import ClassInfo
    from rsdistill.codecs import LatentStore, create_codec, encode, list_codecs
    from rsdistill.datasets import list_datasets, load_dataset
    from rsdistill.distilled import DistilledSet
    from rsdistill.distillers import create_distiller, list_distillers
    from rsdistill.evaluation import evaluate
    from rsdistill.export import export_tiles

    __version__: str

__all__ = [
    "Band",
    "BandSet",
    "Captions",
    "ClassInfo",
    "DistilledSet",
    "LatentStore",
    "__version__",
    "create_captioner",
    "create_codec",
    "create_distiller",
    "encode",
    "evaluate",
    "export_tiles",
    "get_bands",
    "list_captioners",
    "list_codecs",
    "list_datasets",
    "list_distillers",
    "load_dataset",
]

_HOMES = {
    "Band": "bands",
    "BandSet": "bands",
    "get_bands": "bands",
    "Captions": "captions",
    "create_captioner": "captions",
    "list_captioners": "captions",
    "ClassInfo": "classes",
    "LatentStore": "codecs",
    "create_codec": "codecs",
    "encode": "codecs",
    "list_codecs": "codecs",
    "list_datasets": "datasets",
    "load_dataset": "datasets",
    "DistilledSet": "distilled",
    "create_distiller": "distillers",
    "list_distillers": "distillers",
    "evaluate": "evaluation",
    "export_tiles": "export",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home, once.

    Raises:
        AttributeError: If the name is not public.
    """
    if name == "__version__":
        from rsdistill.provenance import package_version

        value: Any = package_version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, whether imported yet or not."""
    return sorted(__all__)
