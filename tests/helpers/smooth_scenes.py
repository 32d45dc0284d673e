"""Chips that look a little like imagery: smooth, with a spectrum that falls, alike within a class."""

from __future__ import annotations

import numpy as np
from helpers.planted_scenes import BANDS, NoiseScenes
from scipy.ndimage import gaussian_filter

from rsdistill.datasets.base import SceneData, SceneView


def smooth(count, seed=0, side=32):
    """Chips (count, 4, 32, 32), classes in turn: blobs of two sizes with bands that go together."""
    random = np.random.default_rng(seed)
    made = np.empty((count, len(BANDS), side, side))
    for position in range(count):
        sigma = (1.5, 3.0)[position % 2]
        shared = gaussian_filter(random.normal(size=(side, side)), sigma)
        own = gaussian_filter(random.normal(size=made.shape[1:]), (0, sigma, sigma))
        made[position] = 1500 * (shared + 0.5 * own) / shared.std()
    return np.clip(made + 4000 + random.normal(0, 30, made.shape), 1, 10000).astype(np.uint16)


def smooth_data(train=140, val=20, test=100, seed=0):
    """The chips as a dataset with views of these sizes."""
    count = train + val + test
    source = NoiseScenes(count)
    source.pixels = smooth(count, seed)
    parts = np.split(np.arange(count), [train, train + val])
    return SceneData(source, *(SceneView(source, part) for part in parts))
