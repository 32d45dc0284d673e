"""Nearest neighbours find planted copies, and find nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.planted_scenes import CLASSES, copies_of, noise, noise_data, tiles_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.datasets.real_chips import RealChips
from rsdistill.errors import AuditError, BandError, OptionError, UnknownNameError
from rsdistill.evaluation import CopyRatio, HeldOutNull, Leakage, copy_ratio, leakage
from rsdistill.evaluation.leakage import clopper_pearson, dihedral_distances

SIZE = 8

TURNS = {
    "as it is": lambda x: x,
    "mirrored": lambda x: x[..., ::-1],
    "turned by 90": lambda x: np.rot90(x, 1, (2, 3)),
    "turned by 270 and upside down": lambda x: np.rot90(x, 3, (2, 3))[..., ::-1, :],
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_copies_of_train_chips_are_found_however_they_are_turned(turn):
    data = noise_data()
    copies = copies_of(data.train)
    found = leakage(replace(copies, image=turn(copies.image)), data, SIZE)
    assert found.held_out_null.rate == 1.0
    assert found.held_out_null.interval[1] == 1.0 and found.held_out_null.interval[0] > 0.6
    np.testing.assert_allclose(found.copy_ratio.ratio, 0.0, atol=1e-6)
    assert found.copy_ratio.share == 1.0


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_copies_of_held_out_chips_are_no_leak(turn):
    data = noise_data()
    copies = copies_of(data.test)
    found = leakage(replace(copies, image=turn(copies.image)), data, SIZE)
    assert found.held_out_null.rate == 0.0 and found.held_out_null.interval[0] == 0.0
    assert found.copy_ratio.share == 0.0


def test_faint_noise_does_not_hide_a_copy():
    data = noise_data()
    copies = copies_of(data.train)
    faint = np.random.default_rng(1).normal(0, 300, copies.image.shape)
    found = leakage(replace(copies, image=np.clip(copies.image + faint, 1, 10000).astype(np.uint16)), data, SIZE)
    assert found.held_out_null.rate == 1.0
    assert found.copy_ratio.share == 1.0 and (found.copy_ratio.ratio > 0).all()


def test_independent_images_are_near_train_chips_half_of_the_time():
    found = []
    for seed in range(20):
        data = noise_data(train=150, val=50, test=80, side=4, seed=seed)
        found.append(leakage(tiles_of(noise(60, 4, 100 + seed), np.arange(60) % 2), data, 4))
    rates = [leak.held_out_null.rate for leak in found]
    assert np.mean(rates) == pytest.approx(0.5, abs=4 * np.std(rates, ddof=1) / np.sqrt(20))
    # A 95 % interval misses one time in twenty; five misses in twenty would be one chance in four hundred.
    assert sum(low < 0.5 < high for low, high in (leak.held_out_null.interval for leak in found)) >= 16
    assert all(leak.copy_ratio.share == 0.0 for leak in found)


@pytest.mark.parametrize(("train", "test"), [(300, 20), (20, 300)])
def test_unequal_splits_give_half_without_a_leak(train, test):
    # Counted plainly, the neighbour would be a train chip 94 % or 6 % of the time.
    data = noise_data(train=train, val=0, test=test)
    found = leakage(tiles_of(noise(200, seed=5), np.arange(200) % 2), data, SIZE).held_out_null
    assert found.interval[0] < 0.5 < found.interval[1]
    assert abs(found.vote.mean() - train / 320) < 0.06


@pytest.mark.parametrize(("train", "test"), [(300, 20), (20, 300)])
def test_unequal_splits_hide_no_copy(train, test):
    data = noise_data(train=train, val=0, test=test)
    found = leakage(copies_of(data.train, 20), data, SIZE).held_out_null
    assert found.rate == 1.0 and found.interval[1] == 1.0


def test_equal_splits_give_the_plain_binomial_rate():
    data = noise_data(train=80, val=0, test=80)
    found = leakage(tiles_of(noise(50, seed=7), np.arange(50) % 2), data, SIZE).held_out_null
    successes = int(found.vote.sum())
    assert found.rate == pytest.approx(successes / 50)
    assert found.interval == pytest.approx(clopper_pearson(successes, 50))


@pytest.mark.parametrize("test", [80, 40])
def test_a_chip_in_both_splits_counts_half(test):
    data = noise_data(train=80, val=0, test=test)
    twin = data.source.pixels
    twin[data.test.indices[:4]] = twin[data.train.indices[:4]]
    found = leakage(copies_of(data.train, 4), data, SIZE).held_out_null
    assert found.rate == pytest.approx(0.5)
    assert found.interval[0] < 0.5 < found.interval[1]


def test_both_figures_agree_with_their_own_functions_and_read_the_chips_once():
    data = noise_data()
    tiles = copies_of(data.train)
    both = leakage(tiles, data, SIZE)
    assert data.source.reads == 10 + 160
    np.testing.assert_array_equal(both.copy_ratio.ratio, copy_ratio(tiles, data, SIZE).ratio)


def test_copies_given_by_the_caller_are_used_instead_of_reading():
    data = noise_data()
    tiles, real = copies_of(data.train), RealChips.read(data, SIZE)
    before = data.source.reads
    given_copies = leakage(tiles, data, SIZE, real=real)
    assert data.source.reads == before
    np.testing.assert_array_equal(given_copies.copy_ratio.ratio, leakage(tiles, data, SIZE).copy_ratio.ratio)
    with pytest.raises(OptionError, match="8 px wide, not 4"):
        leakage(tiles, data, 4, real=real)


def test_larger_images_are_compared_at_the_same_small_size():
    data = noise_data(side=20)
    assert leakage(copies_of(data.train), data, SIZE).copy_ratio.share == 1.0


def test_copy_ratio_is_nearest_over_the_mean_of_the_fifty_nearest():
    data = noise_data(train=160, val=0, test=20)
    tiles = tiles_of(noise(3, seed=9), np.array([0, 1, 1]))
    found = copy_ratio(tiles, data, SIZE)
    real = RealChips.read(data, SIZE)
    images = real.normalisation(torch.from_numpy(tiles.image.astype(np.float32))).numpy()
    train = real.normalisation(real.train.images).numpy()
    for image, label, ratio, distance in zip(images, tiles.label, found.ratio, found.distance, strict=True):
        ordered = np.sort(brute_force(image[None], train[real.train.labels == label])[0])
        assert len(ordered) == 80
        assert ratio == pytest.approx(ordered[0] / ordered[:50].mean(), rel=1e-5)
        assert distance == pytest.approx(ordered[0], rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 5))
def test_distances_equal_brute_force(seed, count, others, bands, side):
    random = np.random.default_rng(seed)
    first = random.normal(size=(count, bands, side, side)).astype(np.float32)
    second = random.normal(size=(others, bands, side, side)).astype(np.float32)
    found = dihedral_distances(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(found, brute_force(first, second), rtol=1e-5, atol=1e-6)


def brute_force(first, second):
    """Smallest distance over all flips and quarter turns, one pair after another."""
    found = np.full((len(first), len(second)), np.inf)
    for turns in range(4):
        for flip in (slice(None), slice(None, None, -1)):
            turned = np.rot90(first, turns, (2, 3))[..., flip].astype(np.float64)
            for i, image in enumerate(turned):
                for j, other in enumerate(second):
                    found[i, j] = min(found[i, j], np.sqrt(((image - other) ** 2).sum()))
    return found


@settings(deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_equals_scipys_exact_one(case):
    successes, trials = case
    wanted = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((wanted.low, wanted.high))


def test_results_survive_json_and_pool():
    data = noise_data()
    one, two = leakage(copies_of(data.train), data, SIZE), leakage(copies_of(data.test), data, SIZE)
    again = Leakage.from_dict(one.to_dict())
    assert again.to_dict() == one.to_dict()
    pooled = Leakage.pooled([again, two])
    assert pooled.held_out_null.rate == 0.5 and pooled.copy_ratio.share == 0.5
    assert isinstance(pooled.held_out_null, HeldOutNull) and isinstance(pooled.copy_ratio, CopyRatio)


def test_labels_are_matched_by_class_key_not_by_position():
    data = noise_data()
    tiles = copies_of(data.train)
    swapped = replace(tiles, label=1 - tiles.label, classes=CLASSES[::-1])
    assert copy_ratio(swapped, data, SIZE).share == 1.0
    alone = replace(tiles.subset(tiles.label == 1), label=np.zeros(5, np.int64), classes=CLASSES[1:])
    assert copy_ratio(alone, data, SIZE).share == 1.0


def test_no_held_out_chip_of_a_class_is_said():
    data = noise_data()
    beaches = data.test.indices[data.test.labels == 0]
    none = SceneView(data.source, beaches[:0])
    data = SceneData(data.source, data.train, none, SceneView(data.source, beaches))
    with pytest.raises(AuditError, match="'forest' of dataset 'noise' has no held-out chip"):
        leakage(copies_of(data.train), data, SIZE)
    # The copy ratio needs no held-out chips.
    assert copy_ratio(copies_of(data.train), data, SIZE).share == 1.0


def test_what_cannot_be_compared_is_refused():
    data = noise_data()
    tiles = copies_of(data.train)
    with pytest.raises(AuditError, match="empty"):
        leakage(tiles.subset(np.zeros(10, bool)), data, SIZE)
    with pytest.raises(UnknownNameError, match="airport"):
        leakage(replace(tiles, classes=(ClassInfo("airport", "airport"), CLASSES[1])), data, SIZE)
    rgb = replace(tiles, image=tiles.image[:, :3], bands=get_bands("bgrn", ["red", "green", "blue"]))
    with pytest.raises(BandError, match="red, green, blue"):
        leakage(rgb, data, SIZE)
    with pytest.raises(OptionError, match="size is 0"):
        leakage(tiles, data, 0)
