"""SyntheticScenes: deterministic, independent of bands and order, and no colour quiz."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rsdistill.datasets.base import DATASETS
from rsdistill.datasets.synthetic import SYNTHETIC_CLASSES, SyntheticScenes
from rsdistill.errors import BandError, ChipError, OptionError, UnknownNameError


def stack(source):
    return np.stack([source.read(i) for i in range(len(source))])


@pytest.fixture(scope="module")
def small():
    """Two chips of each class, 32 px."""
    return SyntheticScenes(size=32, chips_per_class=2)


def bands_like(dtype, valid_range, scale=1.0, offset=0.0, nodata=None):
    named = [{"name": "g", "centre": 0.56, "width": 0.04}, {"name": "n", "centre": 0.84, "width": 0.1}]
    return {
        "bands": named,
        "sensor": "mine",
        "dtype": dtype,
        "valid_range": valid_range,
        "scale": scale,
        "offset": offset,
        "nodata": nodata,
    }


def test_fields_of_a_source(small):
    assert len(SYNTHETIC_CLASSES) >= 10
    assert len(small) == len(small.labels) == len(small.chip_ids) == 2 * len(SYNTHETIC_CLASSES)
    assert len(set(small.chip_ids)) == len(small)
    assert SyntheticScenes(chips_per_class=8).chip_ids[7] == "forest_0007"
    assert small.labels.dtype == np.int64
    assert small.classes[small.labels[-1]].key == small.chip_ids[-1].rsplit("_", 1)[0]
    assert small.gsd == 6.0
    assert small.licence == "CC0-1.0"
    sectors = {info.key: info.sector for info in small.classes if info.sector}
    assert sectors == {
        "cropland": "food",
        "centre_pivot_farmland": "food",
        "residential": "homes",
        "motorway_interchange": "transport",
        "runway": "transport",
        "storage_tanks": "energy",
        "solar_farm": "energy",
    }


def test_registered_under_its_name():
    assert DATASETS.get("synthetic").factory is SyntheticScenes


def test_same_chip_from_two_instances_in_any_order(small):
    again = SyntheticScenes(size=32, chips_per_class=2)
    backwards = [again.read(i) for i in reversed(range(len(again)))][::-1]
    np.testing.assert_array_equal(stack(small), backwards)


def test_chips_differ_between_numbers_and_seeds(small):
    other = SyntheticScenes(size=32, chips_per_class=2, scene_seed=1)
    for first in range(0, len(small), 2):
        assert not np.array_equal(small.read(first), small.read(first + 1))
        assert not np.array_equal(small.read(first), other.read(first))


def test_chip_is_independent_of_the_other_classes_and_of_the_count(small):
    alone = SyntheticScenes(size=32, chips_per_class=5, classes=["runway", "river"])
    np.testing.assert_array_equal(
        alone.read(alone.chip_ids.index("river_0001")), small.read(small.chip_ids.index("river_0001"))
    )
    assert [info.key for info in alone.classes] == ["runway", "river"]


def test_bands_in_any_selection_and_order_show_the_same_scene(small):
    natural = SyntheticScenes(size=32, chips_per_class=2, bands=["red", "green", "blue"])
    np.testing.assert_array_equal(stack(natural), stack(small)[:, [2, 1, 0]])


def test_size_keeps_the_scene():
    coarse, fine = (SyntheticScenes(size=size, chips_per_class=3) for size in (32, 64))
    for index in range(len(coarse)):
        wide, halved = coarse.read(index)[3], fine.read(index)[3].reshape(32, 2, 32, 2).mean(axis=(1, 3))
        assert np.corrcoef(wide.ravel(), halved.ravel())[0, 1] > 0.6, coarse.chip_ids[index]
        assert coarse.attributes(index).keys() == fine.attributes(index).keys()


def test_statistics_are_pinned():
    """Means over the first chips of seed 0, within what rounding on another machine may change."""
    chips = stack(SyntheticScenes(size=32, chips_per_class=4)).astype(float)
    np.testing.assert_allclose(chips.mean(axis=(0, 2, 3)), [1027.0, 1298.2, 1412.7, 2562.8], rtol=0.005)


def test_sentinel2_looks_like_top_of_atmosphere_reflectance():
    source = SyntheticScenes(bands="sentinel2", size=32, chips_per_class=4)
    chips = stack(source).astype(float) * source.bands.scale
    mean = dict(zip(source.bands.names, chips.mean(axis=(0, 2, 3)), strict=True))
    assert mean["B10"] < 0.01
    assert mean["B09"] < 0.8 * mean["B8A"]
    assert mean["B01"] > 0.03
    keys = np.array([source.classes[label].key for label in source.labels])
    river, forest = chips[keys == "river"], chips[keys == "forest"]
    near, short = source.bands.indices(["B08", "B12"])
    darkest = river[:, near].min(axis=(1, 2))
    assert (darkest < 0.08).all(), "water is dark in the near infrared"
    assert forest[:, near].mean() > forest[:, short].mean(), "leaves absorb in the short-wave infrared"


@pytest.mark.parametrize(
    "spec",
    [
        "rgb",
        "bgrn",
        "sentinel2",
        bands_like("uint8", [0, 255], nodata=0),
        bands_like("uint8", [1, 250], scale=0.004),
        bands_like("uint16", [1, 4095], nodata=0),
        bands_like("int16", [-1000, 9000], scale=1e-4, offset=0.1),
        bands_like("float32", [0.0, 1.0], nodata=-9999.0),
        bands_like("float32", [0.0, 1.0], nodata=1.0),
    ],
)
def test_values_fit_every_kind_of_pixel(spec):
    source = SyntheticScenes(bands=spec, size=16, chips_per_class=2)
    chips, (low, high) = stack(source), source.bands.valid_range
    assert chips.dtype == source.bands.dtype
    assert chips.shape == (len(source), len(source.bands), 16, 16)
    assert np.isfinite(chips).all()
    assert chips.min() >= low and chips.max() <= high
    assert source.bands.nodata is None or not (chips == source.bands.nodata).any()
    assert (chips.astype(float).std(axis=(2, 3)).mean(axis=0) > 0.004 * (np.median(chips) - low)).all()


def test_scale_and_offset_carry_the_same_reflectance():
    plain = SyntheticScenes(bands=bands_like("float32", [0.0, 2.0]), size=16, chips_per_class=1)
    packed = SyntheticScenes(bands=bands_like("int16", [-2000, 30000], 1e-4, 0.1), size=16, chips_per_class=1)
    np.testing.assert_allclose(stack(packed) * 1e-4 + 0.1, stack(plain), atol=6e-5)


def test_attributes_name_the_season_and_facts_of_the_class(small):
    for index, label in enumerate(small.labels):
        facts = small.attributes(index)
        assert facts["season"] in ("spring", "summer", "autumn", "winter")
        assert len(facts) >= 4, small.classes[label].key
        assert all(type(value) in (float, str) for value in facts.values())
    river = SyntheticScenes(size=16, chips_per_class=10, classes=["river"])
    widths = [river.attributes(i)["river_width_m"] for i in range(10)]
    assert min(widths) >= 12 and max(widths) <= 46 and len(set(widths)) == 10


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"root": "data"}, OptionError, "generated"),
        ({"classes": ["forrest"]}, UnknownNameError, "did you mean 'forest'"),
        ({"classes": []}, OptionError, "classes"),
        ({"classes": "forest"}, OptionError, "classes"),
        ({"classes": ["river", "river"]}, OptionError, "twice"),
        ({"size": 4}, OptionError, "size"),
        ({"size": 64.0}, OptionError, "size"),
        ({"chips_per_class": 0}, OptionError, "chips_per_class"),
        ({"scene_seed": -1}, OptionError, "scene_seed"),
        ({"bands": "sentinel9"}, UnknownNameError, "sentinel2"),
        ({"bands": {"bands": [{"name": "pan"}]}}, BandError, "'pan'"),
        ({"bands": {"bands": [{"name": "tir", "centre": 10.9}]}}, BandError, "'tir'"),
    ],
)
def test_mistakes_are_named(options, error, words):
    with pytest.raises(error, match=words):
        SyntheticScenes(**options)


@pytest.mark.parametrize("index", [-1, 20])
def test_chips_that_do_not_exist(small, index):
    with pytest.raises(ChipError, match="0 to 19"):
        small.read(index)
    with pytest.raises(ChipError, match="0 to 19"):
        small.attributes(index)


@pytest.mark.parametrize("bands", ["bgrn", "sentinel2"])
def test_no_colour_quiz(bands):
    """Band means tell too little: logistic regression stays below 60 % on held-out chips."""
    source = SyntheticScenes(bands=bands, size=16, chips_per_class=45)
    means = stack(source).mean(axis=(2, 3))
    train = np.arange(len(source)) % 45 < 30
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    probe.fit(means[train], source.labels[train])
    assert probe.score(means[~train], source.labels[~train]) < 0.60


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_structure_tells_the_classes_apart():
    """A small ConvNet trained on 100 chips a class reaches 90 % on held-out chips."""
    import torch
    from torch import nn

    source = SyntheticScenes(chips_per_class=130)
    chips = torch.from_numpy(stack(source).astype(np.float32))
    train = torch.arange(len(source)) % 130 < 100
    labels = torch.from_numpy(source.labels)
    mean, std = chips[train].mean((0, 2, 3), keepdim=True), chips[train].std((0, 2, 3), keepdim=True)
    chips = (chips - mean) / std
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (len(source.bands), 64, 64):
        layers += [nn.Conv2d(channels, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, len(source.classes)))
    steps = 500
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    pool = torch.nonzero(train).flatten()
    for _ in range(steps):
        batch = pool[torch.randint(len(pool), (32,))]
        turned = torch.rot90(chips[batch], int(torch.randint(4, ())), (2, 3))
        turned = turned.flip(3) if torch.rand(()) < 0.5 else turned
        loss = nn.functional.cross_entropy(net(turned), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        predicted = torch.cat([net(part).argmax(1) for part in chips[~train].split(100)])
    assert (predicted == labels[~train]).float().mean() >= 0.90
