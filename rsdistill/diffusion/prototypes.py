"""Prototypes: one guiding latent for each distilled image, found by clustering latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial.distance import cdist

from rsdistill.codecs.store import LatentStore
from rsdistill.diffusion.parameterization import lowpass
from rsdistill.errors import ArtifactError, DatasetError
from rsdistill.training.trainer import derived_seed
from rsdistill.utils.clustering import find_clusters, find_large_clusters, pooled_features

if TYPE_CHECKING:
    import xarray as xr

_PAPER_GRID, _SHARED_GRID = 8, 2
_COLUMNS = ("label", "cluster_size", "n_sources", "margin")


@dataclass(frozen=True)
class PrototypeOptions:
    """How prototypes are found.

    Attributes:
        kind: ``kanonymous`` is what at least ``k`` chips share, the mean of their latents averaged over a
            grid; ``representative`` is the real latent that lies best in its cluster, as in the paper: a tile may
            then be made from a single chip.
        grid_size: Cells a side of the grid that latents are averaged over before clustering; None takes 8 as the
            paper does, and 2 for ``kanonymous``, whose prototypes keep no more detail than this grid.
        k: Least members of a cluster of ``kanonymous``. Where a class has fewer than ``k`` chips for each
            image, several images share a prototype.
        alpha: Weight of the distance to the own centre in the representative's margin.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "cells": "grid_size",
        "restarts": "k-means always has 10 restarts",
    }

    kind: Literal["representative", "kanonymous"] = "kanonymous"
    grid_size: Annotated[int, Field(ge=1)] | None = None
    k: Annotated[int, Field(ge=2)] = 5
    alpha: float = 1.0

    @property
    def grid(self) -> int:
        """Cells a side of the grid."""
        return self.grid_size or (_SHARED_GRID if self.kind == "kanonymous" else _PAPER_GRID)


@dataclass(frozen=True)
class Prototypes:
    """Prototypes of all classes, ordered by class and slot.

    Attributes:
        latent: Guiding latents, (n, C, h, w).
        label: Class positions, int64 (n,).
        cluster_size: Members of each prototype's cluster, int64 (n,).
        n_sources: How many original chips each latent is made from, int64 (n,).
        margin: Distance to the nearest other centre minus alpha times that to the own, (n,).
        prompt: What each prototype's image shall show, in words, (n,); empty until words are found.
        prompt_figures: Counts made while the prompts were found, such as how many had to be shortened.
        members: Places in the train view of the chips of each prototype's cluster. They stay in memory:
            no file says which original chips an image was made from.
    """

    latent: torch.Tensor
    label: NDArray[np.int64]
    cluster_size: NDArray[np.int64]
    n_sources: NDArray[np.int64]
    margin: NDArray[np.float32]
    prompt: tuple[str, ...] = ()
    prompt_figures: Mapping[str, int] = field(default_factory=dict)
    members: tuple[NDArray[np.int64], ...] = field(default=(), repr=False)

    def to_xarray(self) -> xr.Dataset:
        """The table as an xarray dataset (dims sample, channel, y, x)."""
        import xarray as xr

        per_sample = {name: ("sample", getattr(self, name)) for name in _COLUMNS}
        prompt = ("sample", np.asarray(self.prompt or ("",) * len(self.label), dtype=object))
        latent = (("sample", "channel", "y", "x"), self.latent.numpy())
        return xr.Dataset({"latent": latent, **per_sample, "prompt": prompt}, attrs=dict(self.prompt_figures))

    @classmethod
    def load(cls, path: str | Path) -> Prototypes:
        """Read a table that :meth:`to_xarray` gave and netCDF keeps.

        Raises:
            ArtifactError: If the file cannot be read.
        """
        import xarray as xr

        try:
            with xr.open_dataset(path, engine="h5netcdf") as opened:
                table = opened.load()
            columns: dict[str, Any] = {name: table[name].values for name in _COLUMNS}
            return cls(
                torch.from_numpy(table["latent"].values),
                **columns,
                prompt=tuple(str(text) for text in table["prompt"].values),
                prompt_figures={str(name): int(count) for name, count in table.attrs.items()},
            )
        except (OSError, KeyError) as error:
            raise ArtifactError(f"{path} cannot be read as prototypes ({error}); find them again") from error

    def summary(self) -> dict[str, Any]:
        """How many original chips the prototypes are made from; it names none of them."""
        return {
            "smallest_cluster": int(self.cluster_size.min()),
            "singletons": int((self.cluster_size == 1).sum()),
            "min_n_sources": int(self.n_sources.min()),
            **self.prompt_figures,
        }


def find_prototypes(latents: LatentStore, ipc: int, options: PrototypeOptions, seed: int = 0) -> Prototypes:
    """Cluster each class's train latents into ``ipc`` clusters and take one prototype of each.

    Features are posterior means, averaged over a grid, flattened and, but for ``kanonymous``, L2-normalised;
    clusters are k-means'. The representative maximises ``d_inter_min − α·d_intra`` (Xu, Ghamisi and Weng,
    arXiv 2601.15829).

    Args:
        latents: The latent store.
        ipc: Images per class.
        options: Kind and features.
        seed: Seed of k-means.

    Raises:
        DatasetError: If a class has fewer train chips, or fewer that differ, than ``ipc``.
    """
    positions = latents.positions("train")
    labels = latents.label[positions]
    found = []
    for label in np.unique(labels):
        members = positions[labels == label]
        if len(members) < ipc:
            raise DatasetError(
                f"class {label} has {len(members)} train chip(s), fewer than ipc={ipc}; lower distill.ipc "
                f"or leave the class out with data.classes"
            )
        means = latents.read(members).mean
        of_class = class_prototypes(means, int(label), ipc, options, derived_seed(seed, int(label)) % 2**31)
        chips = latents.chip[members]
        found.append(replace(of_class, members=tuple(chips[of_cluster] for of_cluster in of_class.members)))
    columns: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in found]) for name in _COLUMNS}
    return Prototypes(
        torch.cat([p.latent for p in found]),
        **columns,
        members=tuple(of_cluster for p in found for of_cluster in p.members),
    )


def class_prototypes(means: torch.Tensor, label: int, ipc: int, options: PrototypeOptions, seed: int) -> Prototypes:
    """Prototypes of one class.

    Args:
        means: Posterior means of its chips, (n, C, h, w).
        label: Its position.
        ipc: How many to find.
        options: Kind and features.
        seed: Seed of k-means.

    Returns:
        The prototypes; their members are positions among ``means``.

    Raises:
        DatasetError: If too few chips differ.
    """
    try:
        if options.kind == "kanonymous":
            return _shared(means, label, ipc, options, seed)
        return _by_margin(means, label, ipc, options, seed)
    except DatasetError as error:
        raise DatasetError(f"class {label}: {error}") from error


def _by_margin(means: torch.Tensor, label: int, ipc: int, options: PrototypeOptions, seed: int) -> Prototypes:
    """The paper's clusters: the member of each that has the largest margin."""
    features = pooled_features(means, options.grid)
    clusters = find_clusters(features, ipc, seed)
    members_of, margins = clusters.labels_, _margins(features, clusters.labels_, clusters.cluster_centers_, options)
    latent, sizes, margin = [], [], []
    for cluster in range(ipc):
        members = np.flatnonzero(members_of == cluster)
        best = members[np.argmax(margins[members])]
        latent.append(means[best])
        sizes.append(len(members))
        margin.append(margins[best])
    size = np.asarray(sizes, np.int64)
    return Prototypes(
        torch.stack(latent),
        np.full(ipc, label),
        size,
        np.ones_like(size),
        np.asarray(margin, np.float32),
        members=tuple(np.flatnonzero(members_of == cluster) for cluster in range(ipc)),
    )


def _shared(means: torch.Tensor, label: int, ipc: int, options: PrototypeOptions, seed: int) -> Prototypes:
    """Clusters of at least ``k`` members, each giving the mean of its members' coarse latents."""
    coarse = lowpass(means, options.grid)
    # Clustered as they are averaged: what guidance uses is then as alike as can be within a cluster.
    features = F.adaptive_avg_pool2d(means, min(options.grid, means.shape[-1])).flatten(1).numpy()
    members_of = find_large_clusters(features, ipc, options.k, seed)
    count = int(members_of.max()) + 1
    centres = np.stack([features[members_of == cluster].mean(axis=0) for cluster in range(count)])
    margins = _margins(features, members_of, centres, options)
    each = np.arange(ipc) % count
    return Prototypes(
        torch.stack([coarse[torch.from_numpy(members_of == cluster)].mean(dim=0) for cluster in each]),
        np.full(ipc, label),
        np.bincount(members_of)[each],
        np.bincount(members_of)[each],
        np.asarray([margins[members_of == cluster].mean() for cluster in each], np.float32),
        members=tuple(np.flatnonzero(members_of == cluster) for cluster in each),
    )


def _margins(
    features: NDArray[np.float32],
    members_of: NDArray[np.int64],
    centres: NDArray[np.float32],
    options: PrototypeOptions,
) -> NDArray[np.float64]:
    """``d_inter_min − α·d_intra`` of each feature (n,); a lone cluster has no other centre."""
    distances = cdist(features, centres)
    each = np.arange(len(features))
    own = distances[each, members_of]
    distances[each, members_of] = np.inf
    nearest_other = distances.min(axis=1) if len(centres) > 1 else np.zeros(len(features))
    margins: NDArray[np.float64] = nearest_other - options.alpha * own
    return margins
