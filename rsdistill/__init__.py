"""Distil remote-sensing scene datasets into small synthetic ones.

Names are imported when first used, so that ``import rsdistill`` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsdistill.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "bands": ("Band", "BandSet", "get_bands"),
        "captions": ("Captions", "create_captioner", "list_captioners"),
        "classes": ("ClassInfo",),
        "codecs": ("LatentStore", "create_codec", "encode", "list_codecs"),
        "datasets": ("list_datasets", "load_dataset"),
        "distilled": ("DistilledSet",),
        "distillers": ("create_distiller", "list_distillers"),
        "evaluation": ("evaluate",),
        "export": ("export_tiles",),
        "provenance": ("__version__",),
    },
)
