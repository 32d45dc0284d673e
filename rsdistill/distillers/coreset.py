"""Coresets: real chips chosen from train. They leak by definition, and their sets say so."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rsdistill.classes import class_prompts
from rsdistill.distilled import DistilledSet
from rsdistill.distillers.base import DISTILLERS, Distiller, Requirements, check_class_sizes
from rsdistill.errors import DatasetError
from rsdistill.training.trainer import derived_seed
from rsdistill.utils.clustering import find_clusters, greedy_herding, pooled_features

# Stream of random numbers of further candidates.
_REDRAW = 61

Features = NDArray[np.float32]


class SubsetDistiller(Distiller):
    """Chooses ``ipc`` train chips of each class."""

    name: str
    real_pixels = True

    @abstractmethod
    def choose(self, members: NDArray[np.int64], ipc: int, seed: int) -> NDArray[np.int64]:
        """Choose ``ipc`` of the members, positions in the train view, of one class."""

    def distill(self, ipc: int, seed: int = 0) -> DistilledSet:
        """The chosen chips as a set; see :meth:`Distiller.distill`."""
        check_class_sizes(self.fitted(), self, ipc)
        return self._as_set(self._chosen(ipc, seed), ipc, seed)

    def redraw(self, ipc: int, seed: int, positions: NDArray[np.int64], attempt: int) -> DistilledSet:
        """Next chips of the same classes, none of them in the set or drawn before; see :meth:`Distiller.redraw`."""
        labels = self.fitted().train.labels
        chosen = self._chosen(ipc, seed)
        fresh = np.empty(len(positions), np.int64)
        for row, position in enumerate(positions.tolist()):
            label = int(labels[chosen[position]])
            members = np.flatnonzero(labels == label)
            random = np.random.default_rng(derived_seed(seed, label, _REDRAW))
            others = random.permutation(np.setdiff1d(members, chosen))
            # The set holds the classes one after another, so each image has a turn of its own in every round.
            turn = (attempt - 1) * ipc + position % ipc
            if turn >= len(others):
                raise DatasetError(
                    f"class '{self.data_.classes[label].key}' has {len(members)} train chips, too few for round "
                    f"{attempt} of further candidates at ipc={ipc}; lower distill.ipc"
                )
            fresh[row] = others[turn]
        return self._as_set(fresh, ipc, seed)

    def _chosen(self, ipc: int, seed: int) -> NDArray[np.int64]:
        """Positions of the chosen chips in the train view, class by class."""
        labels = self.data_.train.labels
        return np.concatenate(
            [
                self.choose(np.flatnonzero(labels == label), ipc, derived_seed(seed, label) % 2**31)
                for label in range(len(self.data_.classes))
            ]
        )

    def _as_set(self, chosen: NDArray[np.int64], ipc: int, seed: int) -> DistilledSet:
        data = self.data_
        labels, prompts = data.train.labels, class_prompts(data.classes)
        return DistilledSet(
            image=data.train.images(chosen),
            label=labels[chosen],
            classes=data.classes,
            bands=data.bands,
            gsd=data.gsd,
            manifest=self.manifest(ipc, seed),
            caption=[prompts[label] for label in labels[chosen]],
        )


class _LatentSubset(SubsetDistiller):
    """Chooses by features: pooled latents of the chips.

    Args:
        grid_size: Latents are averaged over a grid of this many cells a side.
    """

    RENAMED: ClassVar[dict[str, str]] = {"cells": "grid_size"}

    def __init__(self, grid_size: int = 8) -> None:
        self.grid_size = grid_size

    @property
    def requirements(self) -> Requirements:
        """Latents, whose features are compared."""
        return Requirements(latents=True)

    def choose(self, members: NDArray[np.int64], ipc: int, seed: int) -> NDArray[np.int64]:
        latents = self.fitted_latents()
        # The store's train samples stand in the order of the train view.
        positions = latents.positions("train")[members]
        features = pooled_features(latents.read(positions).mean, self.grid_size)
        return members[self.choose_by(features, ipc, seed)]

    @abstractmethod
    def choose_by(self, features: Features, ipc: int, seed: int) -> NDArray[np.int64]:
        """Choose ``ipc`` rows of the features (n, D) of one class."""


@DISTILLERS.register("random", summary="random real chips: the baseline", source="")
class RandomSubset(SubsetDistiller):
    """Chips drawn at random without replacement."""

    name = "random"

    def choose(self, members: NDArray[np.int64], ipc: int, seed: int) -> NDArray[np.int64]:
        """Draw at random."""
        return np.random.default_rng(seed).choice(members, ipc, replace=False)


@DISTILLERS.register("herding", summary="real chips whose mean follows the class mean", source="Welling 2009")
class Herding(_LatentSubset):
    """Greedy: each next chip brings the mean of the chosen nearest to the mean of the class."""

    name = "herding"

    def choose_by(self, features: Features, ipc: int, seed: int) -> NDArray[np.int64]:
        """Choose greedily; the seed plays no part."""
        return greedy_herding(features, features.mean(axis=0), ipc)


@DISTILLERS.register(
    "kcenter", summary="real chips that cover their class", source="Gonzalez 1985; Sener and Savarese 2018"
)
class KCenter(_LatentSubset):
    """Farthest point first, from a random start."""

    name = "kcenter"

    def choose_by(self, features: Features, ipc: int, seed: int) -> NDArray[np.int64]:
        """Choose each next chip farthest from those chosen."""
        chosen = [int(np.random.default_rng(seed).integers(len(features)))]
        nearest = np.full(len(features), np.inf)
        while len(chosen) < ipc:
            nearest = np.minimum(nearest, np.linalg.norm(features - features[chosen[-1]], axis=1))
            nearest[chosen] = -np.inf
            chosen.append(int(nearest.argmax()))
        return np.asarray(chosen, np.int64)


@DISTILLERS.register("kmeans", summary="real chips nearest to k-means centres", source="")
class KMeansSubset(_LatentSubset):
    """The chip nearest to each centre of k-means in the class."""

    name = "kmeans"

    def choose_by(self, features: Features, ipc: int, seed: int) -> NDArray[np.int64]:
        """Choose each cluster's chip nearest to its centre."""
        clusters = find_clusters(features, ipc, seed)
        distances = clusters.transform(features)
        distances[clusters.labels_[:, None] != np.arange(ipc)] = np.inf
        nearest: NDArray[np.int64] = distances.argmin(axis=0).astype(np.int64)
        return nearest
