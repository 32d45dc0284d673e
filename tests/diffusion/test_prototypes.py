"""Prototypes: scikit-learn's clusters, the best member of each, and how many originals they rest on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from rsdistill.diffusion.prototypes import (
    PrototypeOptions,
    Prototypes,
    class_prototypes,
    find_prototypes,
)
from rsdistill.errors import ArtifactError, DatasetError
from rsdistill.training.trainer import derived_seed
from rsdistill.utils.clustering import pooled_features

IPC = 3


def clusters_of(latents, label, grid_size):
    positions = latents.positions("train")
    means = latents.read(positions[latents.label[positions] == label]).mean
    features = pooled_features(means, grid_size)
    return means, features, KMeans(IPC, n_init=10, random_state=derived_seed(0, label) % 2**31).fit(features)


def test_features_are_pooled_flattened_and_normalised():
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    features = pooled_features(latents, 2)
    wanted = latents.reshape(5, 4, 2, 4, 2, 4).mean((3, 5)).flatten(1).numpy()
    np.testing.assert_allclose(features, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
    assert pooled_features(latents, 8).shape == pooled_features(latents, 99).shape == (5, 256)


@pytest.mark.parametrize("grid_size", [2, 8])
@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_representatives_maximise_the_margin_in_scikit_learns_clusters(tiny_latents, grid_size, alpha):
    found = find_prototypes(tiny_latents, IPC, PrototypeOptions("representative", grid_size=grid_size, alpha=alpha))
    assert found.label.tolist() == [0] * IPC + [1] * IPC + [2] * IPC
    for label in range(3):
        means, features, clusters = clusters_of(tiny_latents, label, grid_size)
        centres = clusters.cluster_centers_
        for cluster in range(IPC):
            members = np.flatnonzero(clusters.labels_ == cluster)
            margins = []
            for member in members:
                distance = [np.linalg.norm(features[member] - centre) for centre in centres]
                own = distance.pop(cluster)
                margins.append(min(distance) - alpha * own)
            slot = label * IPC + cluster
            assert found.cluster_size[slot] == len(members) and found.n_sources[slot] == 1
            assert found.margin[slot] == pytest.approx(max(margins), abs=1e-4)
            assert torch.equal(found.latent[slot], means[members[int(np.argmax(margins))]])


def test_singletons_are_counted():
    outlier = torch.zeros(1, 4, 2, 2)
    outlier[0, 0] = 5.0
    rest = torch.zeros(9, 4, 2, 2)
    rest[:, 1] = 5.0
    rest += 0.01 * torch.randn(rest.shape, generator=torch.Generator().manual_seed(0))
    found = class_prototypes(torch.cat([outlier, rest]), 0, 2, PrototypeOptions("representative"), 0)
    assert sorted(found.cluster_size.tolist()) == [1, 9]
    assert found.summary() == {"smallest_cluster": 1, "singletons": 1, "min_n_sources": 1}


def test_one_prototype_of_a_class_needs_no_other_centre(tiny_latents):
    found = find_prototypes(tiny_latents, 1, PrototypeOptions(grid_size=2))
    assert len(found.label) == 3 and np.isfinite(found.margin).all() and (found.margin < 0).all()


def test_prototypes_follow_the_seed_alone(tiny_latents):
    def latent(seed):
        return find_prototypes(tiny_latents, IPC, PrototypeOptions(grid_size=2), seed).latent

    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    first = latent(0)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(first, latent(0))


def test_classes_too_small_are_refused(tiny_latents):
    smallest = int(np.bincount(tiny_latents.label[tiny_latents.positions("train")]).min())
    with pytest.raises(DatasetError, match=rf"class 0 has {smallest} train chip\(s\), fewer than ipc={smallest + 1}"):
        find_prototypes(tiny_latents, smallest + 1, PrototypeOptions("representative"))
    same = torch.ones(5, 4, 2, 2)
    with pytest.raises(DatasetError, match=r"class 7: only 1 train chip\(s\) differ, fewer than ipc=2"):
        class_prototypes(same, 7, 2, PrototypeOptions("representative"), 0)


def test_a_table_comes_back_equal(tiny_latents, tmp_path):
    found = find_prototypes(tiny_latents, IPC, PrototypeOptions(grid_size=2))
    found.to_xarray().to_netcdf(tmp_path / "table.nc", engine="h5netcdf")
    loaded = Prototypes.load(tmp_path / "table.nc")
    assert torch.equal(loaded.latent, found.latent)
    for name in ("label", "cluster_size", "n_sources", "margin"):
        assert np.array_equal(getattr(loaded, name), getattr(found, name))
    with pytest.raises(ArtifactError, match="cannot be read as prototypes"):
        Prototypes.load(tmp_path / "none.nc")
