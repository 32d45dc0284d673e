"""Scene datasets as train, validation and test views.

Importing this package registers the built-in datasets. torchgeo, which takes seconds to import,
is loaded once one of its own datasets is opened.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rsdistill.datasets.base import DATASETS, PublishedSplit, SceneData, SceneSource, SceneView
from rsdistill.datasets.folder import FolderScenes
from rsdistill.datasets.loading import list_datasets, load_dataset
from rsdistill.datasets.prepared import PreparedScenes, load_prepared, prepare
from rsdistill.datasets.reading import SkippedChipsWarning
from rsdistill.datasets.splits import SplitOptions, StraddlingDuplicatesWarning, split_scenes
from rsdistill.datasets.synthetic import SyntheticScenes
from rsdistill.datasets.torchgeo import AIDScenes, EuroSATScenes, RESISC45Scenes, UCMercedScenes

if TYPE_CHECKING:
    from rsdistill.datasets.aid import AID
    from rsdistill.datasets.exported_tiles import DistilledTiles

# Names whose modules import torchgeo.
_LAZY = {"AID": "aid", "DistilledTiles": "exported_tiles"}

__all__ = [
    "AID",
    "DATASETS",
    "AIDScenes",
    "DistilledTiles",
    "EuroSATScenes",
    "FolderScenes",
    "PreparedScenes",
    "PublishedSplit",
    "RESISC45Scenes",
    "SceneData",
    "SceneSource",
    "SceneView",
    "SkippedChipsWarning",
    "SplitOptions",
    "StraddlingDuplicatesWarning",
    "SyntheticScenes",
    "UCMercedScenes",
    "list_datasets",
    "load_dataset",
    "load_prepared",
    "prepare",
    "split_scenes",
]


def __getattr__(name: str) -> Any:
    """Import what needs torchgeo at first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
