"""torchgeo's datasets: copies without lists, official lists, archives, and band order."""

import shutil

import numpy as np
import pytest
from helpers.fake_scenes import EUROSAT_PLANES, LAYOUTS, noise, serve, write_dataset, write_photo

from rsdistill.datasets import load_dataset
from rsdistill.errors import DatasetError, OptionError, SplitError, UnknownNameError

LISTS = {"ucmerced": "uc_merced-{}.txt", "resisc45": "resisc45-{}.txt", "eurosat": "eurosat-{}.txt"}


def write_lists(root, name, classes=("Beach", "Forest")):
    """Official lists: of six chips a class, three to train, one to val, two to test."""
    suffix = {"eurosat": ".jpg"}.get(name, LAYOUTS[name][1])
    for part, numbers in {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}.items():
        lines = [f"{key}_{number}{suffix}\n" for key in classes for number in numbers]
        (root / LISTS[name].format(part)).write_text("".join(lines))


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_plain_copies_load_without_lists(tmp_path, name):
    write_dataset(tmp_path, name)
    data = load_dataset(name, tmp_path, train=0.5, val=0.34)
    assert (data.name, len(data.train), len(data.val), len(data.test)) == (name, 4, 2, 6)
    assert [c.name for c in data.classes] == ["beach", "forest"]
    sample = data.train[0]
    assert sample["image"].shape == (len(data.bands), 16, 16)
    assert data.licence
    assert data.citation


@pytest.mark.parametrize("name", sorted(LISTS))
def test_official_lists_are_torchgeos(tmp_path, name):
    import torchgeo.datasets

    write_dataset(tmp_path, name)
    write_lists(tmp_path, name)
    data = load_dataset(name, tmp_path, scheme="torchgeo")
    kind = {"ucmerced": "UCMerced", "resisc45": "RESISC45", "eurosat": "EuroSAT"}[name]
    for part in ("train", "val", "test"):
        theirs = getattr(torchgeo.datasets, kind)(root=str(tmp_path), split=part)
        ours = getattr(data, part)
        assert len(ours) == len(theirs)
        assert ours.labels.tolist() == [label for _, label in theirs.imgs]
        if name == "ucmerced":
            continue  # theirs are resized to 256 pixels; compared below
        planes = [EUROSAT_PLANES.index(b) for b in data.bands.names] if name == "eurosat" else [0, 1, 2]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine["image"].dtype == other["image"].dtype
            np.testing.assert_array_equal(mine["image"], other["image"][planes])


def test_ucmerced_pixels_equal_torchgeos(tmp_path):
    from torchgeo.datasets import UCMerced

    write_dataset(tmp_path, "ucmerced", side=256)
    write_lists(tmp_path, "ucmerced")
    ours, theirs = load_dataset("ucmerced", tmp_path, scheme="torchgeo").test, UCMerced(str(tmp_path), "test")
    np.testing.assert_array_equal(ours[0]["image"], theirs[0]["image"])


def test_missing_list_is_named(tmp_path):
    write_dataset(tmp_path, "ucmerced")
    with pytest.raises(SplitError, match=r"uc_merced-train.txt; use scheme 'stratified'.* or download=True"):
        load_dataset("ucmerced", tmp_path, scheme="torchgeo")
    with pytest.raises(SplitError, match="'aid' has no official split lists"):
        load_dataset("aid", write_dataset(tmp_path, "aid").parent, scheme="torchgeo")


def test_lists_that_do_not_fit_the_images(tmp_path):
    write_dataset(tmp_path, "eurosat")
    write_lists(tmp_path, "eurosat", classes=("Beach",))
    with pytest.raises(SplitError, match="official train list of eurosat does not fit the images"):
        load_dataset("eurosat", tmp_path, scheme="torchgeo")


@pytest.mark.parametrize("name", ["ucmerced", "resisc45"])
def test_missing_lists_are_fetched(tmp_path, monkeypatch, name):
    import torchgeo.datasets

    root, served = tmp_path / "root", tmp_path / "served"
    served.mkdir()
    write_dataset(root, name)
    write_lists(served, name)
    with serve(served) as url:
        urls = {part: f"{url}/{LISTS[name].format(part)}" for part in ("train", "val", "test")}
        monkeypatch.setattr(torchgeo.datasets.RESISC45, "split_urls", urls)
        monkeypatch.setattr(torchgeo.datasets.UCMerced, "url", f"{url}/")
        data = load_dataset(name, root, scheme="torchgeo", download=True)
    assert (len(data.train), len(data.val), len(data.test)) == (6, 2, 4)
    (root / LISTS[name].format("val")).unlink()
    with pytest.raises(SplitError, match=f"official val list of {name} cannot be downloaded"):
        load_dataset(name, root, scheme="torchgeo", download=True)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_archives_are_extracted(tmp_path, name):
    from rsdistill.datasets import DATASETS

    write_dataset(tmp_path / "made", name)
    filename = DATASETS.get(name).factory.torchgeo_class().filename
    root = tmp_path / "root"
    shutil.make_archive(str(root / filename.removesuffix(".zip")), "zip", tmp_path / "made")
    assert len(load_dataset(name, root).source) == 12


def test_broken_and_foreign_archives(tmp_path):
    (tmp_path / "NWPU-RESISC45.zip").write_text("no archive")
    with pytest.raises(DatasetError, match="'resisc45' cannot be put into"):
        load_dataset("resisc45", tmp_path)
    (tmp_path / "other").mkdir()
    shutil.make_archive(str(tmp_path / "NWPU-RESISC45"), "zip", tmp_path, "other")
    with pytest.raises(DatasetError, match="does not hold 'NWPU-RESISC45'"):
        load_dataset("resisc45", tmp_path)


def test_eurosat_bands_go_by_name(tmp_path):
    write_dataset(tmp_path, "eurosat", per_class=2)
    data = load_dataset("eurosat", tmp_path, val=0)
    assert list(data.bands.centres) == sorted(data.bands.centres)
    assert data.bands.names.index("B8A") == 8
    original = noise(0, 13, 16, "uint16")
    expected = original[[EUROSAT_PLANES.index(b) for b in data.bands.names]]
    np.testing.assert_array_equal(data.source.read(0), expected)
    some = load_dataset("eurosat", tmp_path, val=0, bands=["B8A", "B4"])
    assert some.bands.names == ("B8A", "B04")
    np.testing.assert_array_equal(some.source.read(0), original[[12, 3]])
    assert load_dataset("eurosat", tmp_path, val=0, bands="B08").bands.names == ("B08",)


def test_gsd_follows_the_ground_that_a_chip_shows(tmp_path):
    write_dataset(tmp_path, "aid", side=20)
    assert load_dataset("aid", tmp_path).gsd == pytest.approx(2.0 * 600 / 20)
    assert load_dataset("aid", tmp_path, size=10).gsd == pytest.approx(2.0 * 600 / 10)


def test_published_needs_the_whole_of_resisc45(tmp_path):
    write_dataset(tmp_path, "resisc45")
    with pytest.raises(SplitError, match=r"class 'Beach' of resisc45 has 6 chip\(s\), but .* trains on 600"):
        load_dataset("resisc45", tmp_path, scheme="published")


def test_what_users_get_wrong(tmp_path):
    with pytest.raises(OptionError, match="'eurosat' needs option root"):
        load_dataset("eurosat")
    with pytest.raises(DatasetError, match="'eurosat' is not in .* needs 'ds.*' or the archive 'EuroSATallBands.zip'"):
        load_dataset("eurosat", tmp_path)
    write_dataset(tmp_path, "eurosat")
    with pytest.raises(UnknownNameError, match="'B13'"):
        load_dataset("eurosat", tmp_path, bands=["B13"])
    with pytest.raises(UnknownNameError, match="'Forrest': did you mean 'Forest'"):
        load_dataset("eurosat", tmp_path, classes=["Forrest"])
    with pytest.raises(UnknownNameError, match="did you mean 'eurosat'"):
        load_dataset("eurostat", tmp_path)


def test_readable_names(tmp_path):
    keys = ("mobilehomepark", "tenniscourt", "river")
    write_dataset(tmp_path, "ucmerced", classes=keys, per_class=2)
    write_dataset(tmp_path, "eurosat", classes=("SeaLake", "AnnualCrop"), per_class=2)
    names = [c.name for name in ("ucmerced", "eurosat") for c in load_dataset(name, tmp_path).classes]
    assert names == ["mobile home park", "river", "tennis court", "annual crop", "sea and lake"]


def test_a_grey_image_among_rgb_is_refused_by_name(tmp_path):
    folder = write_dataset(tmp_path, "aid")
    write_photo(folder / "Beach" / "Beach_0.jpg", noise(0, 1))
    with pytest.raises(DatasetError, match=r"Beach_0.jpg has 1 band\(s\), but this dataset has 3"):
        load_dataset("aid", tmp_path, max_bad=0)
