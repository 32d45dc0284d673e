"""Selection: the margin's own best, the set that no exchange improves, and latents that are copies."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from rsdistill.diffusion.teacher import LatentTeacher
from rsdistill.distillers.candidate_selection import (
    SelectionOptions,
    by_set,
    herded,
    latent_copy_ratios,
    teacher_view,
    unit_features,
)


def unit(generator, *shape):
    values = generator.standard_normal(shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def value(chosen, confidence, features, real, options):
    """The objective as the documentation states it, by scikit-learn."""
    each = np.arange(len(chosen))
    tiles = features[each, chosen]
    coverage = cosine_similarity(real, tiles).max(1).mean()
    among = cosine_similarity(tiles)
    np.fill_diagonal(among, -np.inf)
    spread = (1.0 - among.max(1)).mean()
    return confidence[each, chosen].mean() + options.coverage * coverage + spread


@pytest.mark.parametrize("seed", range(6))
def test_no_single_exchange_improves_the_set(seed):
    generator = np.random.default_rng(seed)
    slots, candidates = 4, 3
    confidence = generator.random((slots, candidates))
    features, real = unit(generator, slots, candidates, 5), unit(generator, 20, 5)
    options = SelectionOptions("set", coverage=generator.random() * 3)
    chosen = by_set(confidence, features, real, options)
    best = value(chosen, confidence, features, real, options)
    for slot, candidate in product(range(slots), range(candidates)):
        other = chosen.copy()
        other[slot] = candidate
        assert value(other, confidence, features, real, options) <= best + 1e-9
    assert best >= value(confidence.argmax(1), confidence, features, real, options) - 1e-9


def test_diversity_refuses_twins_and_coverage_seeks_what_is_missing():
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    features = np.stack([np.stack([east, north]), np.stack([east, north])])
    confidence = np.array([[0.9, 0.1], [0.9, 0.8]])
    for coverage in (0.0, 1.0):
        options = SelectionOptions("set", coverage)
        assert by_set(confidence, features, np.stack([east, north]), options).tolist() == [0, 1]


def test_one_slot_is_chosen_by_confidence_and_coverage():
    features, real = np.eye(3)[None], np.eye(3)[1:2]
    assert by_set(np.full((1, 3), 0.5), features, real, SelectionOptions("set")).tolist() == [1]


def test_copies_in_latents_are_near_in_any_view():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(60, 2, 4, 8, 8, generator=generator)
    copies = torch.stack([real[3, 1], real[7, 0] + 0.05 * torch.randn(4, 8, 8, generator=generator)])
    fresh = torch.randn(2, 4, 8, 8, generator=generator)
    ratios = latent_copy_ratios(torch.cat([copies, fresh]), real)
    assert ratios[0] == 0 and ratios[1] < 0.1 and (ratios[2:] > 0.8).all()


def test_teacher_view_is_the_teachers_own():
    teacher = LatentTeacher(4, 3, 8, 1).eval()
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    logits, features = teacher_view(teacher, latents)
    torch.testing.assert_close(logits, teacher(latents).detach())
    lengths = np.linalg.norm(unit_features(features, features.mean(0)), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 4))
def test_no_exchange_brings_a_herded_mean_nearer(seed, count, chosen):
    chosen = min(chosen, count)
    generator = np.random.default_rng(seed)
    features, target = generator.normal(size=(count, 3)), generator.normal(size=3)
    found = herded(features, target, chosen)
    assert len(set(found)) == chosen

    def distance(positions):
        return float(np.square(features[list(positions)].mean(0) - target).sum())

    for place in range(chosen):
        for other in set(range(count)) - set(found):
            assert distance([*found[:place], other, *found[place + 1 :]]) >= distance(found) - 1e-9


def test_herding_begins_as_welling_does():
    # Without exchanges that help: the nearest to the target first, then what brings the mean back.
    features = np.array([[0.9, 0.0], [-1.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
    assert herded(features, np.zeros(2), 2).tolist() == [0, 1]
    assert sorted(herded(features, np.zeros(2), 4)) == [0, 1, 2, 3]
