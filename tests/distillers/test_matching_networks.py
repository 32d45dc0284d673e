"""Matching networks: trained for longer and longer, their class means as defined, kept and read back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from rsdistill.datasets import load_dataset
from rsdistill.distillers.matching_networks import (
    MatchingNetworks,
    NetworkKind,
    NetworkOptions,
    ResidualBlock,
    StagedNetwork,
    train_matching_networks,
)
from rsdistill.errors import ArtifactError
from rsdistill.imaging.pixels import augmented
from rsdistill.training.trainer import step_generator

OPTIONS = NetworkOptions(count=3, min_steps=2, steps=150, size=8, width=16, batch=16, lr=5e-3, views=2)


@pytest.fixture(scope="module")
def trained(tiny_data, quiet):
    return train_matching_networks(tiny_data, OPTIONS, 0, None, quiet)


def test_step_counts_grow_by_equal_factors():
    assert NetworkOptions(count=3, min_steps=4, steps=100).step_counts() == [4, 20, 100]
    assert NetworkOptions(count=4, min_steps=50, steps=20).step_counts() == [20] * 4


def test_the_last_has_learned_the_classes(trained, tiny_data):
    networks, figures = trained
    seen = networks.prepare(torch.from_numpy(tiny_data.train.images()))
    right = [
        float((networks.see(n, seen)[1].argmax(1).numpy() == tiny_data.train.labels).mean())
        for n in range(OPTIONS.count)
    ]
    assert right[-1] > 0.9 > right[0]
    assert 0 <= figures["val_oa_first"] <= figures["val_oa_last"] <= 1


def test_class_means_are_those_of_all_random_views(trained, tiny_data):
    networks = trained[0]
    seen = networks.prepare(torch.from_numpy(tiny_data.train.images()))
    views = [augmented(seen, step_generator(0, 43, 0, turn)) for turn in range(OPTIONS.views)]
    for number in range(OPTIONS.count):
        features = torch.cat([networks.see(number, view)[0] for view in views])
        labels = np.tile(tiny_data.train.labels, OPTIONS.views)
        wanted = torch.stack([features[labels == label].mean(0) for label in range(3)])
        torch.testing.assert_close(networks.means(number), wanted, rtol=1e-4, atol=1e-5)


def test_chips_are_seen_normalised_and_small(trained, tiny_data):
    networks = trained[0]
    chips = torch.from_numpy(tiny_data.train.images()[:2]).float()
    normalised = networks.normalisation.forward(chips, tiny_data.bands)
    torch.testing.assert_close(networks.prepare(chips), torch.nn.functional.avg_pool2d(normalised, 2))
    chips[0, 0] = torch.nan
    assert torch.equal(networks.prepare(chips)[0, 0], torch.zeros(8, 8))
    assert networks.prepare(chips[..., :4, :4]).shape == (2, 4, 8, 8)


def test_the_same_seed_gives_the_same_networks_also_from_checkpoints(trained, tiny_data, quiet, tmp_path):
    for _ in range(2):
        again = train_matching_networks(tiny_data, OPTIONS, 0, tmp_path, quiet)[0]
        assert all(
            torch.equal(a, b)
            for a, b in zip(again.state_dict().values(), trained[0].state_dict().values(), strict=True)
        )
    other = train_matching_networks(tiny_data, OPTIONS, 1, None, quiet)[0]
    assert not torch.equal(other.means(0), trained[0].means(0))


def test_networks_are_read_back_as_they_were(trained, tmp_path):
    trained[0].save(tmp_path)
    again = MatchingNetworks.load(tmp_path)
    seen = torch.randn(2, 4, 8, 8)
    assert torch.equal(again.see(2, seen)[0], trained[0].see(2, seen)[0]) and again.options == OPTIONS
    assert torch.equal(again.means(2), trained[0].means(2)) and not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("harm", ["missing", "cut", "other"])
def test_unreadable_networks_are_named(trained, tmp_path, harm):
    trained[0].save(tmp_path)
    told = tmp_path / "matching_networks.json"
    if harm == "missing":
        told.unlink()
    elif harm == "cut":
        (tmp_path / "matching_networks.safetensors").write_bytes(b"x")
    else:
        told.write_text(json.dumps({**json.loads(told.read_text()), "classes": 5}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        MatchingNetworks.load(tmp_path)


def test_a_single_class_is_matched_in_features_as_they_are(tiny_data, quiet):
    data = load_dataset("synthetic", size=16, chips_per_class=12, classes=["forest"])
    networks = train_matching_networks(data, replace(OPTIONS, count=2, steps=2), 0, None, quiet)[0]
    maps = networks.networks[0](networks.prepare(torch.from_numpy(data.train.images())))[0]
    sections = 2 * len(maps)
    # Six sections, of 16 channels each: the first is a map of 4 x 4 cells.
    scale = networks.get_buffer("scale_0")
    torch.testing.assert_close(scale[0], torch.tensor((sections * 16 * 16) ** -0.5))
    torch.testing.assert_close(scale[16 * 16], torch.tensor((sections * 16) ** -0.5))


@pytest.mark.parametrize("kind", get_args(NetworkKind))
def test_features_are_of_every_stage(kind):
    network = StagedNetwork(kind, 4, 3, 16).eval()
    maps, logits = network(torch.randn(2, 4, 8, 8))
    assert len(maps) == 3 and logits.shape == (2, 3)
    assert [m.shape[-1] for m in maps] == ([4, 2, 1] if "convnet" in kind else [8, 4, 2])
    assert network.training is False and all(torch.isfinite(m).all() for m in maps)


def test_kinds_take_turns(trained):
    norms = [[type(m).__name__ for m in n.modules() if "Norm" in type(m).__name__][0] for n in trained[0].networks]
    blocks = [any(isinstance(m, ResidualBlock) for m in n.modules()) for n in trained[0].networks]
    assert norms == ["GroupNorm", "BatchNorm2d", "BatchNorm2d"] and blocks == [False, True, False]


def test_each_section_counts_alike_and_by_its_variance_between_classes(trained, tiny_data):
    networks = trained[0]
    seen = networks.prepare(torch.from_numpy(tiny_data.train.images()))
    maps = networks.networks[1](seen)[0]
    means = networks.means(1)
    first = maps[0].shape[1] * 16
    # The mean variance between classes of a section, times its length, is one over the number of sections.
    torch.testing.assert_close(means[:, :first].var(0).sum(), torch.tensor(1 / 6), rtol=1e-4, atol=0)
    torch.testing.assert_close(means.var(0).sum(), torch.tensor(1.0), rtol=1e-4, atol=0)
