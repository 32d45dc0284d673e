"""Chips of three classes, each bright in a band of its own; one of them is to be kept out."""

from __future__ import annotations

import numpy as np

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneSource, SceneView
from rsdistill.distilled import DistilledSet

CLASSES = tuple(ClassInfo(key, key) for key in ("beach", "forest", "port"))
ALLOWED = CLASSES[:2]
BANDS = get_bands("bgrn", ["red", "green", "blue"])


class BrightScenes(SceneSource):
    name, bands, gsd, licence, citation = "bright", BANDS, 10.0, "CC0-1.0", "none"

    def __init__(self, labels, side=8, seed=0, classes=CLASSES):
        self.classes = classes
        self.labels = np.asarray(labels, np.int64)
        self.chip_ids = [f"chip{i}" for i in range(len(self.labels))]
        self.pixels = bright(self.labels, side, seed)

    def read(self, index):
        return self.pixels[index]


def bright(labels, side=8, seed=0):
    """Noise with one brighter band a class."""
    pixels = np.random.default_rng(seed).integers(1, 3000, (len(labels), len(BANDS), side, side)).astype(np.uint16)
    pixels[np.arange(len(labels)), labels] += 2500
    return pixels


def bright_data(train=90, val=120, test=30, side=8):
    source = BrightScenes(np.arange(train + val + test) % len(CLASSES), side)
    parts = np.split(np.arange(len(source.labels)), [train, train + val])
    return SceneData(source, *(SceneView(source, part) for part in parts))


def tiles_showing(shown, labels=None, seed=5, **more):
    """A set of the allowed classes whose images show classes of one's choice."""
    shown = np.asarray(shown)
    labels = np.arange(len(shown)) % len(ALLOWED) if labels is None else labels
    return DistilledSet(bright(shown, seed=seed), labels, ALLOWED, BANDS, 10.0, {"method": "planted"}, **more)
