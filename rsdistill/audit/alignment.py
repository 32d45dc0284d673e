"""Bring a distilled set to the classes of the dataset that it is compared with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.errors import BandError


def aligned(tiles: DistilledSet, data: SceneData) -> DistilledSet:
    """The same set with labels that point into the classes of ``data``, matched by key.

    A set may lack classes that the dataset has, as a policy may have left them out.

    Args:
        tiles: The distilled set.
        data: The dataset to compare it with.

    Raises:
        BandError: If the bands differ.
        UnknownNameError: If the set has a class that the dataset lacks.
    """
    if tiles.bands.names != data.bands.names:
        raise BandError(
            f"the distilled set has bands {', '.join(tiles.bands.names)}, dataset '{data.name}' has "
            f"{', '.join(data.bands.names)}; load the dataset with the bands of the set"
        )
    if [c.key for c in tiles.classes] == [c.key for c in data.classes]:
        return tiles
    target = np.array([data.class_index(c.key) for c in tiles.classes], np.int64)
    soft = tiles.soft_label
    if soft is not None:
        soft = np.zeros((len(tiles), len(data.classes)), np.float32)
        soft[:, target] = tiles.soft_label
    return replace(tiles, label=target[tiles.label], classes=data.classes, soft_label=soft)
