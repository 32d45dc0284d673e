"""K-means of chips, plain and with a smallest cluster size, and the features of latents that it compares."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from rsdistill.errors import DatasetError

_RESTARTS, _ROUNDS = 10, 50


def pooled_features(latents: torch.Tensor, grid_size: int) -> NDArray[np.float32]:
    """Latents (N, C, h, w) to pooled, flattened, L2-normalised features (N, D)."""
    pooled = F.adaptive_avg_pool2d(latents, grid_size) if grid_size < latents.shape[-1] else latents
    return F.normalize(pooled.flatten(1)).numpy()


def greedy_herding(features: NDArray[Any], target: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Positions of so many features (n, D), each bringing the mean of the chosen nearest to a target (D,).

    Source: Welling, Herding dynamical weights to learn, 2009.
    """
    total, chosen = np.zeros(features.shape[1]), list[int]()
    for size in range(1, count + 1):
        distance = np.linalg.norm((total + features) / size - target, axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
        total += features[chosen[-1]]
    return np.asarray(chosen, np.int64)


def find_clusters(features: NDArray[np.float32], count: int, seed: int) -> KMeans:
    """K-means of features (n, D) into exactly so many clusters, none of them empty.

    Raises:
        DatasetError: If there are fewer features that differ than clusters.
    """
    different = len(np.unique(features, axis=0))
    if different < count:
        raise DatasetError(f"only {different} train chip(s) differ, fewer than ipc={count}; lower distill.ipc")
    return KMeans(count, n_init=_RESTARTS, random_state=seed).fit(features)


def find_large_clusters(features: NDArray[np.float32], count: int, smallest: int, seed: int) -> NDArray[np.int64]:
    """K-means whose clusters have at least ``smallest`` members each.

    Lloyd's rounds with a constrained assignment (Bradley, Bennett and Demiriz, Constrained k-means clustering,
    2000): every cluster offers as many places as it needs, the cheapest filling of them all is found exactly, and
    whoever needs no such place goes to the nearest centre.

    Args:
        features: One row a chip, (n, D).
        count: Clusters wanted; fewer are made where the chips do not suffice for so many.
        smallest: Least members of a cluster.
        seed: Seed of the start.

    Returns:
        Cluster of each chip, int64 (n,), numbered from 0 without a gap.

    Raises:
        DatasetError: If there are fewer chips than one cluster needs.
    """
    if len(features) < smallest:
        raise DatasetError(
            f"{len(features)} train chip(s), fewer than the {smallest} that one prototype must rest on; "
            f"lower prototypes.k or leave the class out with data.classes"
        )
    count = min(count, len(features) // smallest)
    start = min(count, len(np.unique(features, axis=0)))
    centres = KMeans(start, n_init=_RESTARTS, random_state=seed).fit(features).cluster_centers_
    members = np.full(len(features), -1)
    for _ in range(_ROUNDS):
        before, members = members, _assign(features, centres, smallest)
        if np.array_equal(before, members):
            break
        centres = np.stack([features[members == cluster].mean(axis=0) for cluster in range(len(centres))])
    return members.astype(np.int64)


def _assign(features: NDArray[np.float32], centres: NDArray[np.float32], smallest: int) -> NDArray[np.int64]:
    """Cheapest assignment (n,) in squared distances that gives every centre its least members."""
    distances = ((features[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
    nearest = distances.argmin(axis=1)
    # What a chip loses by a place that is not at its nearest centre: only places that must be filled can cost.
    regret = distances - distances.min(axis=1, keepdims=True)
    places = np.repeat(np.arange(len(centres)), smallest)
    chips, filled = linear_sum_assignment(regret[:, places])
    assigned: NDArray[np.int64] = nearest.astype(np.int64)
    assigned[chips] = places[filled]
    return assigned
