"""Splits: disjoint, stratified, the same everywhere, and never through a pair of equal images."""

import numpy as np
import pytest
from helpers.fake_scenes import ListedScenes
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rsdistill.datasets.base import PublishedSplit
from rsdistill.datasets.splits import SplitOptions, StraddlingDuplicatesWarning, split_scenes
from rsdistill.errors import OptionError, SplitError, UnknownNameError

PINNED = {"train": [1, 2, 9, 10, 15, 16], "val": [0, 4, 13, 18], "test": [3, 5, 6, 7, 8, 11, 12, 14, 17, 19]}


def views_of(data):
    return {"train": data.train.indices, "val": data.val.indices, "test": data.test.indices}


@st.composite
def sources(draw):
    """Labels and duplicate groups of any kind, duplicates across classes included."""
    sizes = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    groups = draw(st.lists(st.integers(0, 2 * len(labels)), min_size=len(labels), max_size=len(labels)))
    published = draw(st.sampled_from([None, PublishedSplit(0.5), PublishedSplit(2, 1), PublishedSplit(3)]))
    return ListedScenes(labels, groups, published)


def surely_splits(source, scheme):
    """Whether each class has more chips than are learned from, and one of them without a duplicate."""
    learned = source.published_split.train if scheme == "published" else 1
    groups = source.duplicate_groups()
    alone = np.bincount(groups)[groups] == 1
    sizes = np.bincount(source.labels)
    return set(source.labels[alone]) == set(source.labels) and sizes.min() > max(learned, 1)


@settings(deadline=None)
@given(
    sources(),
    st.sampled_from(["stratified", "published"]),
    st.floats(0.05, 0.95),
    st.floats(0, 0.9),
    st.integers(0, 5),
)
def test_views_share_no_chip_and_no_equal_pixels(source, scheme, train, val, seed):
    assume(scheme == "stratified" or source.published_split is not None)
    options = SplitOptions(scheme, train if scheme == "stratified" else None, val, seed)
    try:
        views = views_of(split_scenes(source, options))
    except SplitError:
        assert not surely_splits(source, scheme)
        return
    groups = source.duplicate_groups()
    chips = np.concatenate(list(views.values()))
    assert len(chips) == len(set(chips.tolist()))
    held = [set(groups[positions].tolist()) for positions in views.values()]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    for part in ("train", "test"):
        assert set(source.labels[views[part]]) == set(source.labels)


@settings(deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.floats(0.1, 0.9), st.floats(0, 0.5))
def test_without_duplicates_the_shares_are_met_to_the_chip(sizes, train, val):
    source = ListedScenes(np.repeat(np.arange(len(sizes)), sizes))
    data = split_scenes(source, SplitOptions(train=train, val=val))
    for label, size in enumerate(sizes):
        learn = min(max(round(train * size), 1), size - 1)
        held = min(round(val * learn), learn - 1)
        counts = [int((view.labels == label).sum()) for view in (data.train, data.val, data.test)]
        assert counts == [learn - held, held, size - learn]


def test_split_is_the_same_on_every_machine():
    # Written down once: a change here breaks every stored run.
    data = split_scenes(ListedScenes([0] * 10 + [1] * 10), SplitOptions(train=0.5, val=0.4, seed=3))
    assert data.train.indices.tolist() == PINNED["train"]
    assert data.val.indices.tolist() == PINNED["val"]
    assert data.test.indices.tolist() == PINNED["test"]


def test_order_of_files_and_other_classes_change_nothing():
    source = ListedScenes([0] * 12 + [1] * 12)
    shuffled = ListedScenes([0] * 12 + [1] * 12)
    order = np.random.default_rng(0).permutation(24)
    shuffled.labels, shuffled.chip_ids = source.labels[order], [source.chip_ids[i] for i in order]
    alone = ListedScenes([0] * 12)
    expected = split_scenes(source).test.chip_ids
    assert sorted(split_scenes(shuffled).test.chip_ids) == expected
    assert split_scenes(alone).test.chip_ids == [c for c in expected if c.startswith("c0")]


def test_val_is_cut_from_train_and_test_stays():
    source = ListedScenes([0] * 50 + [1] * 50)
    some, none = split_scenes(source, SplitOptions(val=0.25)), split_scenes(source, SplitOptions(val=0))
    assert len(none.val) == 0
    assert some.test.indices.tolist() == none.test.indices.tolist()
    assert sorted([*some.train.indices, *some.val.indices]) == none.train.indices.tolist()


def test_seeds_draw_different_splits():
    source = ListedScenes([0] * 50)
    tests = {tuple(split_scenes(source, SplitOptions(seed=seed)).test.indices) for seed in range(5)}
    assert len(tests) == 5


def test_published_counts():
    source = ListedScenes(np.repeat(np.arange(3), 80), published=PublishedSplit(60, 10))
    data = split_scenes(source, SplitOptions("published", val=0.1))
    for label in range(3):
        counts = [int((view.labels == label).sum()) for view in (data.train, data.val, data.test)]
        assert counts == [54, 6, 10]


def test_published_halves():
    source = ListedScenes([0] * 30 + [1] * 21, published=PublishedSplit(0.5))
    data = split_scenes(source, SplitOptions("published", val=0))
    assert np.bincount(data.train.labels).tolist() == [15, 10]
    assert np.bincount(data.test.labels).tolist() == [15, 11]


def test_too_few_chips_name_class_and_counts():
    with pytest.raises(SplitError, match=r"class 'c1' of listed has 1 chip\(s\), 1 of them distinct"):
        split_scenes(ListedScenes([0, 0, 0, 1]))
    with pytest.raises(SplitError, match=r"class 'c0' of listed has 3 chip\(s\), 1 of them distinct"):
        split_scenes(ListedScenes([0, 0, 0], groups=[7, 7, 7]))
    with pytest.raises(SplitError, match=r"class 'c0' .* has 5 chip\(s\), but its published split trains on 5"):
        split_scenes(ListedScenes([0] * 5, published=PublishedSplit(5, 1)), SplitOptions("published"))


def test_missing_splits_say_what_to_use():
    for scheme in ("published", "torchgeo"):
        with pytest.raises(SplitError, match="'listed' has no .* use scheme 'stratified'"):
            split_scenes(ListedScenes([0, 0]), SplitOptions(scheme))


def test_official_lists_lose_copies_of_test_chips():
    source = ListedScenes([0] * 6, groups=[0, 1, 2, 0, 4, 2])
    source.official_split = lambda: {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3, 4, 5])}
    with pytest.warns(StraddlingDuplicatesWarning, match=r"2 exact .*c0/00002.tif, c0/00000.tif"):
        data = split_scenes(source, SplitOptions("torchgeo"))
    assert [view.tolist() for view in views_of(data).values()] == [[1], [], [3, 4, 5]]


@pytest.mark.parametrize("options", [{"train": 0.0}, {"train": 1.0}, {"val": 1.0}, {"val": -0.1}])
def test_shares_out_of_range_are_refused(options):
    with pytest.raises(OptionError, match=f"split option {next(iter(options))} is"):
        SplitOptions(**options)


def test_options_that_would_be_ignored_are_refused():
    with pytest.raises(OptionError, match="train belongs to scheme 'stratified'"):
        SplitOptions("published", train=0.5)
    with pytest.raises(OptionError, match="val does not go with scheme 'torchgeo'"):
        SplitOptions("torchgeo", val=0.1)
    with pytest.raises(UnknownNameError, match="did you mean 'stratified'"):
        SplitOptions("stratifed")
