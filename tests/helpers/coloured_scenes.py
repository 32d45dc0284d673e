"""A dataset in memory that a student can learn: each class is bright in a band of its own."""

from __future__ import annotations

import numpy as np

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneSource, SceneView
from rsdistill.distilled import DistilledSet
from rsdistill.utils.provenance import REAL, SYNTHETIC

CLASSES = tuple(ClassInfo(key, key) for key in ("beach", "forest", "river"))
BANDS = get_bands("bgrn")


class ColouredScenes(SceneSource):
    name, classes, bands, gsd, licence, citation = "coloured", CLASSES, BANDS, 10.0, "CC0-1.0", "none"

    def __init__(self, count, side=8):
        self.labels = np.arange(count) % len(CLASSES)
        self.chip_ids = [f"chip{i}" for i in range(count)]
        self.pixels = np.random.default_rng(0).integers(1, 3000, (count, len(BANDS), side, side)).astype(np.uint16)
        self.pixels[np.arange(count), self.labels] += 1500
        self.reads = 0

    def read(self, index):
        self.reads += 1
        return self.pixels[index]


def coloured_data(train=60, val=15, test=45, side=8):
    positions = np.arange(train + val + test)
    parts = np.split(positions, [train, train + val])
    source = ColouredScenes(len(positions), side)
    return SceneData(source, *(SceneView(source, part) for part in parts))


def real_set(data, ipc=2, start=0, **more):
    which = np.arange(start, start + ipc * len(CLASSES))
    manifest = {"method": "random", "digital_source_type": REAL}
    return DistilledSet(data.train.images(which), data.train.labels[which], CLASSES, BANDS, 10.0, manifest, **more)


def generated_set(ipc=2, seed=0, **more):
    scenes = ColouredScenes(ipc * len(CLASSES))
    shift = np.random.default_rng(seed).integers(1, 50, scenes.pixels.shape)
    pixels = (scenes.pixels[..., ::-1, ::-1].transpose(0, 1, 3, 2) + shift).astype(np.uint16)
    manifest = {"method": "dpd", "digital_source_type": SYNTHETIC}
    return DistilledSet(pixels, scenes.labels, CLASSES, BANDS, 10.0, manifest, **more)
