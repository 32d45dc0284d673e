"""Real chips in memory, and distilled sets planted with copies of them."""

from __future__ import annotations

import numpy as np

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneSource, SceneView
from rsdistill.distilled import DistilledSet

CLASSES = tuple(ClassInfo(key, key) for key in ("beach", "forest"))
BANDS = get_bands("bgrn")


class NoiseScenes(SceneSource):
    """Independent random chips of two classes, class by class in turn."""

    name, classes, bands, gsd, licence, citation = "noise", CLASSES, BANDS, 10.0, "CC0-1.0", "none"

    def __init__(self, count, side=8, seed=0):
        self.labels = np.arange(count) % len(CLASSES)
        self.chip_ids = [f"chip{i}" for i in range(count)]
        self.pixels = noise(count, side, seed)
        self.reads = 0

    def read(self, index):
        self.reads += 1
        return self.pixels[index]


def noise(count, side=8, seed=0):
    return np.random.default_rng(seed).integers(1, 10000, (count, len(BANDS), side, side)).astype(np.uint16)


def noise_data(train=80, val=20, test=60, side=8, seed=0):
    positions = np.arange(train + val + test)
    source = NoiseScenes(len(positions), side, seed)
    parts = np.split(positions, [train, train + val])
    return SceneData(source, *(SceneView(source, part) for part in parts))


def tiles_of(pixels, labels):
    return DistilledSet(pixels, labels, CLASSES, BANDS, 10.0, {"method": "planted"})


def copies_of(view, count=10):
    """The first chips of a view as a distilled set."""
    which = np.arange(count)
    return tiles_of(view.images(which), view.labels[which])
