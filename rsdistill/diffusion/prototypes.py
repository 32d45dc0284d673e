"""Prototypes: one guiding latent for each distilled image, found by clustering latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from sklearn.cluster import KMeans

from rsdistill.codecs.store import LatentStore
from rsdistill.errors import ArtifactError, DatasetError
from rsdistill.training import derived_seed

if TYPE_CHECKING:
    import xarray as xr

_COLUMNS = ("label", "cluster_size", "rests_on", "margin")


@dataclass(frozen=True)
class PrototypeOptions:
    """How prototypes are found.

    Attributes:
        kind: ``representative`` is the real latent that lies best in its cluster, as in the paper;
            ``centroid`` is the mean of the cluster's latents.
        cells: Latents are averaged over a grid of this many cells a side before clustering.
        alpha: Weight of the distance to the own centre in the representative's margin.
        restarts: Restarts of k-means.
    """

    kind: Literal["representative", "centroid"] = "representative"
    cells: Annotated[int, Field(ge=1)] = 8
    alpha: float = 1.0
    restarts: Annotated[int, Field(ge=1)] = 10


@dataclass(frozen=True)
class Prototypes:
    """Prototypes of all classes, ordered by class and slot.

    Attributes:
        latent: Guiding latents, (n, C, h, w).
        label: Class positions, int64 (n,).
        cluster_size: Members of each prototype's cluster, int64 (n,).
        rests_on: How many original chips each latent is made of, int64 (n,).
        margin: Distance to the nearest other centre minus alpha times that to the own, (n,).
    """

    latent: torch.Tensor
    label: NDArray[np.int64]
    cluster_size: NDArray[np.int64]
    rests_on: NDArray[np.int64]
    margin: NDArray[np.float32]

    def to_xarray(self) -> xr.Dataset:
        """The table as an xarray dataset (dims sample, channel, y, x)."""
        import xarray as xr

        per_sample = {name: ("sample", getattr(self, name)) for name in _COLUMNS}
        return xr.Dataset({"latent": (("sample", "channel", "y", "x"), self.latent.numpy()), **per_sample})

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
            return cls(torch.from_numpy(table["latent"].values), *(table[name].values for name in _COLUMNS))
        except (OSError, KeyError) as error:
            raise ArtifactError(f"{path} cannot be read as prototypes ({error}); find them again") from error

    def summary(self) -> dict[str, Any]:
        """How many originals the prototypes rest on; it names none of them."""
        return {
            "smallest_cluster": int(self.cluster_size.min()),
            "singletons": int((self.cluster_size == 1).sum()),
            "rests_on_at_least": int(self.rests_on.min()),
        }


def find_prototypes(latents: LatentStore, ipc: int, options: PrototypeOptions, seed: int = 0) -> Prototypes:
    """Cluster each class's train latents into ``ipc`` clusters and take one prototype of each.

    Features are posterior means, averaged over a grid, flattened and L2-normalised; clusters are
    k-means'. The representative maximises ``d_inter_min − α·d_intra`` (Xu, Ghamisi and Weng,
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
        found.append(_of_class(means, int(label), ipc, options, derived_seed(seed, int(label)) % 2**31))
    return Prototypes(
        torch.cat([p.latent for p in found]),
        *(np.concatenate([getattr(p, name) for p in found]) for name in _COLUMNS),
    )


def pooled_features(latents: torch.Tensor, cells: int) -> NDArray[np.float32]:
    """Latents (N, C, h, w) to pooled, flattened, L2-normalised features (N, D)."""
    pooled = F.adaptive_avg_pool2d(latents, cells) if cells < latents.shape[-1] else latents
    return F.normalize(pooled.flatten(1)).numpy()


def find_clusters(features: NDArray[np.float32], count: int, seed: int, restarts: int = 10) -> KMeans:
    """K-means of features (n, D) into exactly so many clusters, none of them empty.

    Raises:
        DatasetError: If there are fewer features that differ than clusters.
    """
    different = len(np.unique(features, axis=0))
    if different < count:
        raise DatasetError(f"only {different} train chip(s) differ, fewer than ipc={count}; lower distill.ipc")
    return KMeans(count, n_init=restarts, random_state=seed).fit(features)


def _of_class(means: torch.Tensor, label: int, ipc: int, options: PrototypeOptions, seed: int) -> Prototypes:
    features = pooled_features(means, options.cells)
    try:
        clusters = find_clusters(features, ipc, seed, options.restarts)
    except DatasetError as error:
        raise DatasetError(f"class {label}: {error}") from error
    distances = clusters.transform(features)
    own = distances[np.arange(len(features)), clusters.labels_]
    distances[np.arange(len(features)), clusters.labels_] = np.inf
    nearest_other = distances.min(axis=1) if ipc > 1 else np.zeros(len(features))
    margins = nearest_other - options.alpha * own
    latent, sizes, margin = [], [], []
    for cluster in range(ipc):
        members = np.flatnonzero(clusters.labels_ == cluster)
        best = members[np.argmax(margins[members])]
        latent.append(means[best] if options.kind == "representative" else means[members].mean(dim=0))
        sizes.append(len(members))
        margin.append(margins[best])
    size = np.asarray(sizes, np.int64)
    rests_on = np.ones_like(size) if options.kind == "representative" else size
    return Prototypes(torch.stack(latent), np.full(ipc, label), size, rests_on, np.asarray(margin, np.float32))
