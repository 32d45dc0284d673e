"""Datasets by name, and datasets as prepared arrays."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers.fake_scenes import ListedScenes, noise, write_folder, write_raster

from rsdistill.bands import get_bands
from rsdistill.datasets import SplitOptions, list_datasets, load_dataset, load_prepared, prepare, split_scenes
from rsdistill.datasets.loading import check_data_options
from rsdistill.datasets.prepared import BandStatistics
from rsdistill.errors import ArtifactError, ChipError, DatasetError, OptionError, StorageError, UnknownNameError

VIEWS = ("train", "val", "test")


def test_built_in_names():
    assert {"aid", "eurosat", "folder", "resisc45", "synthetic", "ucmerced"} <= set(list_datasets())


def test_synthetic_scenes_need_no_torchgeo():
    code = (
        "import sys; from rsdistill.datasets import load_dataset; "
        "load_dataset('synthetic', size=16, bands='rgb', chips_per_class=2).train[0]; "
        "assert 'torchgeo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_synthetic_scenes_are_rendered_as_asked():
    data = load_dataset("synthetic", size=16, bands="rgb", chips_per_class=5, classes=["river", "forest"], train=0.6)
    assert data.train.images().shape[1:] == (3, 16, 16)
    assert {c.key for c in data.classes} == {"forest", "river"}
    assert (len(data.train), len(data.val), len(data.test)) == (6, 0, 4)


def test_seed_is_that_of_the_split_and_scenes_have_their_own():
    options = {"size": 16, "bands": "rgb", "chips_per_class": 10, "classes": ["river"]}
    first, second = load_dataset("synthetic", seed=1, **options), load_dataset("synthetic", seed=2, **options)
    np.testing.assert_array_equal(first.source.read(0), second.source.read(0))
    assert first.test.indices.tolist() != second.test.indices.tolist()
    others = load_dataset("synthetic", seed=1, scene_seed=1, **options)
    assert not np.array_equal(others.source.read(0), first.source.read(0))
    assert others.test.indices.tolist() == first.test.indices.tolist()
    with pytest.raises(OptionError, match=r"data\.options\.seed is now scene_seed"):
        check_data_options("synthetic", {}, {"seed": 3})


def test_options_that_contradict_or_are_unknown(tmp_path):
    with pytest.raises(OptionError, match="give either split, or scheme, train, val and seed"):
        load_dataset("synthetic", split=SplitOptions(), val=0.2)
    with pytest.raises(OptionError, match="give either split"):
        load_dataset("folder", write_folder(tmp_path), gsd=1.0, split=SplitOptions(), seed=3)
    with pytest.raises(UnknownNameError, match="'chip_per_class'.* did you mean 'chips_per_class'"):
        load_dataset("synthetic", chip_per_class=3)


@pytest.fixture
def data(tmp_path):
    """Chips of two bands with nodata and an exact copy, some in no view."""
    for number in range(12):
        pixels = noise(number % 11, 2, 8, "uint16")
        pixels[0, 0, :number] = 0
        write_raster(tmp_path / "chips" / ("a" if number < 6 else "b") / f"name{number}.tif", pixels)
    return load_dataset(
        "folder",
        tmp_path / "chips",
        bands=["red", "nir"],
        gsd=2.0,
        licence="CC0-1.0",
        citation="me",
        train=0.7,
        val=0.3,
    )


def test_prepared_views_are_identical(data, tmp_path):
    prepare(data, tmp_path / "prepared")
    back = load_prepared(tmp_path / "prepared")
    for name in VIEWS:
        ours, theirs = getattr(back, name), getattr(data, name)
        assert len(ours) == len(theirs) > 0
        np.testing.assert_array_equal(ours.images(), theirs.images())
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours[0]["image"], theirs[0]["image"])
    for fact in ("name", "classes", "bands", "gsd", "licence", "citation"):
        assert getattr(back, fact) == getattr(data, fact)
    assert not np.load(tmp_path / "prepared" / "chips.npy", mmap_mode="r", allow_pickle=False).flags.writeable


def test_prepared_folders_tell_no_names(data, tmp_path):
    prepare(data, tmp_path / "prepared")
    assert "name1" not in (tmp_path / "prepared" / "index.json").read_text()
    assert load_prepared(tmp_path / "prepared").source.chip_ids[:2] == ["000000", "000001"]


def test_prepared_statistics_are_those_of_train_without_nodata(data, tmp_path):
    prepare(data, tmp_path / "prepared")
    index = json.loads((tmp_path / "prepared" / "index.json").read_text())
    chips = data.train.images()
    for band, found in enumerate(index["statistics"]):
        values = chips[:, band][chips[:, band] != 0].astype(float)
        expected = [
            values.size,
            values.min(),
            values.max(),
            values.mean(),
            values.std(),
            *np.percentile(values, (0.5, 99.5)),
        ]
        assert [found[k] for k in ("count", "min", "max", "mean", "std", "low", "high")] == pytest.approx(expected)
    for view in VIEWS:
        assert list(index["counts"][view].values()) == np.bincount(getattr(data, view).labels, minlength=2).tolist()


def test_prepared_keeps_copies_together(tmp_path):
    source = ListedScenes([0] * 6, groups=[5, 1, 5, 2, 3, 4])
    prepare(split_scenes(source), tmp_path / "prepared")
    groups = load_prepared(tmp_path / "prepared").source.duplicate_groups()
    assert groups[0] == groups[2]
    assert len(set(groups)) == 5


def test_prepared_source_goes_to_loader_workers_without_its_pixels(data, tmp_path):
    prepare(data, tmp_path / "prepared")
    view = load_prepared(tmp_path / "prepared").train
    sent = pickle.dumps(view)
    assert view.images()[:1].tobytes() not in sent
    np.testing.assert_array_equal(pickle.loads(sent).images(), view.images())


def test_damaged_prepared_folders(data, tmp_path):
    with pytest.raises(ArtifactError, match=r"index.json cannot be read .* prepare the dataset again"):
        load_prepared(tmp_path / "gone")
    folder = tmp_path / "prepared"
    prepare(data, folder)
    whole = (folder / "chips.npy").read_bytes()
    for damaged in (whole[:-10], b"", b"text"):
        (folder / "chips.npy").write_bytes(damaged)
        with pytest.raises(ArtifactError, match="chips.npy cannot be read"):
            load_prepared(folder)
    np.save(folder / "chips.npy", np.zeros((1, 2, 8, 8), np.uint16))
    with pytest.raises(ArtifactError, match=r"holds uint16 \(1, 2, 8, 8\), but its index.json speaks of 12 chips"):
        load_prepared(folder)
    (folder / "index.json").write_text('{"format": "other"}')
    with pytest.raises(ArtifactError, match="is not of format"):
        load_prepared(folder)


def test_preparing_needs_one_size_and_a_place(data, tmp_path):
    source = ListedScenes([0] * 6)
    source.read = lambda index: np.zeros((3, 4, 4 + index % 2), np.uint8)
    with pytest.raises(DatasetError, match=r"others uint8 .*give option size"):
        prepare(split_scenes(source), tmp_path / "prepared")
    assert not (tmp_path / "prepared" / "index.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        prepare(data, tmp_path / "file" / "prepared")


def test_preparing_names_a_chip_that_vanished(data, tmp_path):
    data.source.path(int(data.test.indices[0])).unlink()
    with pytest.raises(ChipError, match="cannot be read"):
        prepare(data, tmp_path / "prepared")


def test_statistics_in_pieces_equal_those_of_the_whole():
    bands = get_bands("bgrn", ["red"])
    chips = np.random.default_rng(0).integers(0, 9000, (300, 1, 100, 100)).astype(np.uint16)
    pieces = BandStatistics(bands, chips.size)
    for start in range(0, 300, 70):
        pieces.update(chips[start : start + 70])
    (found,) = pieces.compute()
    values = chips[chips != 0].astype(float)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(values, (0.5, 99.5)), rel=0.05)


def test_statistics_of_a_band_without_measurement():
    pieces = BandStatistics(get_bands("bgrn", ["red"]), 16)
    pieces.update(np.zeros((1, 1, 4, 4), np.uint16))
    assert pieces.compute() == [
        {"name": "red", "count": 0, "min": None, "max": None, "mean": None, "std": None, "low": None, "high": None}
    ]
