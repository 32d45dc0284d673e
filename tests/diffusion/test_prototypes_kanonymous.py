"""Clusters with a smallest size: never one below it, and never dearer than need be."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdistill.diffusion.parameterization import lowpass
from rsdistill.diffusion.prototypes import PrototypeOptions, class_prototypes, find_prototypes
from rsdistill.errors import DatasetError
from rsdistill.utils.clustering import _assign, find_large_clusters


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 40), st.integers(1, 8), st.integers(2, 6), st.integers(1, 5), st.integers(0, 10**6), st.booleans()
)
def test_no_cluster_is_ever_smaller_than_k(chips, count, smallest, width, seed, alike):
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((chips, width)).astype(np.float32)
    if alike:
        features = features.round()
    if chips < smallest:
        with pytest.raises(DatasetError, match="fewer than the"):
            find_large_clusters(features, count, smallest, 0)
        return
    sizes = np.bincount(find_large_clusters(features, count, smallest, 0))
    assert sizes.sum() == chips and sizes.min() >= smallest
    assert len(sizes) <= min(count, chips // smallest)


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_cheapest_that_fills_every_cluster(seed):
    generator = np.random.default_rng(seed)
    features, centres = generator.standard_normal((7, 2)), generator.standard_normal((3, 2))
    distances = ((features[:, None] - centres[None]) ** 2).sum(2)

    def cost(members):
        return distances[np.arange(7), members].sum()

    allowed = [np.array(m) for m in product(range(3), repeat=7) if np.bincount(m, minlength=3).min() >= 2]
    assert cost(_assign(features, centres, 2)) == pytest.approx(min(map(cost, allowed)))


def test_without_need_the_clusters_are_those_of_k_means():
    generator = np.random.default_rng(0)
    features = np.concatenate([generator.normal(centre, 0.1, (6, 2)) for centre in (-3.0, 0.0, 3.0)])
    found = find_large_clusters(features.astype(np.float32), 3, 2, 0)
    assert [len(set(found[part])) for part in (slice(0, 6), slice(6, 12), slice(12, 18))] == [1, 1, 1]
    assert len(set(found)) == 3


def test_a_kanonymous_prototype_is_the_coarse_mean_of_its_members():
    generator = torch.Generator().manual_seed(0)
    ones = torch.randn(6, 4, 8, 8, generator=generator)
    twos = torch.randn(7, 4, 8, 8, generator=generator) + 5.0
    found = class_prototypes(torch.cat([ones, twos]), 3, 2, PrototypeOptions(kind="kanonymous", k=5), 0)
    wanted = {6: lowpass(ones, 2).mean(0), 7: lowpass(twos, 2).mean(0)}
    assert sorted(found.n_sources.tolist()) == [6, 7] and found.label.tolist() == [3, 3]
    for latent, size in zip(found.latent, found.n_sources.tolist(), strict=True):
        torch.testing.assert_close(latent, wanted[size])
    assert (found.margin > 0).all()


@settings(max_examples=25, deadline=None)
@given(chips=st.integers(2, 24), ipc=st.integers(1, 6), k=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_no_prototype_ever_rests_on_fewer_than_k_chips(chips, ipc, k, seed):
    latents = torch.randn(chips, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    options = PrototypeOptions(kind="kanonymous", k=k)
    if chips < k:
        with pytest.raises(DatasetError, match="fewer than the"):
            class_prototypes(latents, 0, ipc, options, 0)
        return
    found = class_prototypes(latents, 0, ipc, options, 0)
    assert len(found.latent) == ipc
    for latent, size, n_sources, members in zip(
        found.latent, found.cluster_size, found.n_sources, found.members, strict=True
    ):
        assert size == n_sources == len(set(members.tolist())) >= k
        torch.testing.assert_close(latent, lowpass(latents[torch.from_numpy(members)], 2).mean(0))


def test_where_chips_are_few_images_share_prototypes():
    latents = torch.randn(11, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = class_prototypes(latents, 0, 5, PrototypeOptions(kind="kanonymous", k=4), 0)
    assert len(found.latent) == 5 and found.summary()["min_n_sources"] >= 4
    assert torch.equal(found.latent[0], found.latent[2]) and not torch.equal(found.latent[0], found.latent[1])


def test_a_class_with_fewer_chips_than_k_is_refused(tiny_latents):
    with pytest.raises(DatasetError, match=r"class 0: .* fewer than the 99 that one prototype must rest on"):
        find_prototypes(tiny_latents, 2, PrototypeOptions(kind="kanonymous", k=99))
