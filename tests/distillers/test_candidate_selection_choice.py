"""Choosing among candidates: one a slot, never a copy where there is another."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from rsdistill.diffusion.teacher import margin
from rsdistill.distillers.candidate_selection import SelectionOptions, SoftLabelOptions, choose
from rsdistill.distillers.matching_networks import NetworkOptions, train_matching_networks
from rsdistill.errors import OptionError

LABELS = np.array([0, 0, 1, 2])
R = 3


@pytest.fixture
def drawn(tiny_latents):
    shape = tiny_latents.read(tiny_latents.positions("train")[:1]).mean.shape[1:]
    return torch.randn(len(LABELS) * R, *shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher(tiny_dpd):
    return tiny_dpd.teacher_


def chosen(drawn, tiny_latents, teacher, **options):
    return choose(drawn, LABELS, R, tiny_latents, teacher, SelectionOptions(**options))


def test_margins_choose_each_slot_by_itself(drawn, tiny_latents, teacher):
    found = chosen(drawn, tiny_latents, teacher)
    margins = margin(teacher(drawn), torch.from_numpy(LABELS.repeat(R))).reshape(-1, R)
    assert np.array_equal(found.position, margins.argmax(1).numpy() + np.arange(len(LABELS)) * R)
    np.testing.assert_allclose(found.margin, margins.max(1).values.numpy(), rtol=1e-4, atol=1e-5)
    assert found.summary() == {"vetoed": 0, "conceded": 0}


@pytest.mark.parametrize("kind", ["margin", "set"])
def test_every_slot_gets_one_of_its_own_candidates(drawn, tiny_latents, teacher, kind):
    found = chosen(drawn, tiny_latents, teacher, kind=kind)
    assert np.array_equal(found.position // R, np.arange(len(LABELS)))
    torch.testing.assert_close(found.logits, teacher(drawn)[torch.from_numpy(found.position)])


@pytest.mark.parametrize("kind", ["margin", "set"])
def test_copies_are_passed_over_while_a_slot_has_another(drawn, tiny_latents, teacher, kind):
    real = tiny_latents.positions("train", views=True)
    copies = [real[(tiny_latents.label[real] == label) & (tiny_latents.view[real] == 2)] for label in range(3)]
    for slot, label in enumerate(LABELS[:3]):
        # All but the last candidate of the first three slots are copies of a turned view.
        for candidate in range(R - 1):
            drawn[slot * R + candidate] = tiny_latents.read(copies[label][candidate : candidate + 1]).mean[0]
    drawn[-R:] = tiny_latents.read(copies[2][:R]).mean
    found = chosen(drawn, tiny_latents, teacher, kind=kind, veto=0.3)
    assert (found.position[:3] % R == R - 1).all()
    assert found.summary() == {"vetoed": 3 * (R - 1) + R - 1, "conceded": 1}


def test_soft_labels_are_the_teachers_few_likeliest():
    logits = torch.tensor([[4.0, 2.0, 0.0], [0.0, 0.0, 6.0]])
    assert SoftLabelOptions().of(logits) is None
    soft = SoftLabelOptions(top_k=2).of(logits)
    assert soft is not None and ((soft > 0).sum(1) <= 2).all()
    np.testing.assert_allclose(soft[0, :2], torch.tensor([4.0, 2.0]).softmax(0), atol=1 / 255)
    with pytest.raises(OptionError, match=r"soft_labels.top_k is 4"):
        SoftLabelOptions(top_k=4).of(logits)


@pytest.fixture(scope="module")
def networks(tiny_data, quiet):
    options = NetworkOptions(count=2, min_steps=2, steps=20, size=8, width=16, batch=16, views=1)
    return train_matching_networks(tiny_data, options, 0, None, quiet)[0]


def gap(found, networks, codec, label):
    """Squared distance of the mean features of a class's tiles to its class means, summed over networks."""
    seen = networks.prepare(codec.decode(found.latents[torch.from_numpy(LABELS == label)]))
    pairs = [(networks.see(n, seen)[0].mean(0), networks.means(n)[label]) for n in range(2)]
    return float(sum((mean - wanted).square().sum() for mean, wanted in pairs))


def test_herding_takes_any_candidates_of_the_class_whose_mean_is_nearest(drawn, tiny_latents, teacher, networks):
    found = choose(drawn, LABELS, R, tiny_latents, teacher, SelectionOptions(kind="herding"), networks)
    assert np.array_equal(LABELS[found.position // R], LABELS) and len(set(found.position)) == len(LABELS)
    ours = gap(found, networks, tiny_latents.codec, 0)
    for pair in itertools.combinations(range(2 * R), 2):
        position = np.array([*pair, 2 * R, 3 * R])
        other = replace(found, position=position, latents=drawn[torch.from_numpy(position)])
        assert gap(other, networks, tiny_latents.codec, 0) >= ours - 1e-5


def test_herding_passes_copies_over(drawn, tiny_latents, teacher, networks):
    real = tiny_latents.positions("train")
    drawn[0] = tiny_latents.read(real[tiny_latents.label[real] == 0][:1]).mean[0]
    found = choose(drawn, LABELS, R, tiny_latents, teacher, SelectionOptions(kind="herding", veto=0.3), networks)
    assert 0 not in found.position and found.summary() == {"vetoed": 1, "conceded": 0}
