"""Class folders of one's own, and everything that can be wrong with them."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from helpers.fake_scenes import noise, write_folder, write_photo, write_raster
from PIL import Image

from rsdistill.datasets import SkippedChipsWarning, load_dataset
from rsdistill.datasets.folder import FolderScenes
from rsdistill.errors import BandError, ChipError, DatasetError, OptionError, UnknownNameError


def test_classes_labels_and_pixels(tmp_path):
    write_folder(tmp_path)
    source = FolderScenes(tmp_path, gsd=0.5, licence="CC0-1.0")
    assert [c.key for c in source.classes] == ["farm", "port"]
    assert source.labels.tolist() == [0] * 6 + [1] * 6
    assert source.bands.names == ("red", "green", "blue")
    assert (source.gsd, source.size, source.licence) == (0.5, 16, "CC0-1.0")
    np.testing.assert_array_equal(source.read(7), noise(1001, 3, 16))


def test_size_scales_the_gsd(tmp_path):
    write_folder(tmp_path)
    source = FolderScenes(tmp_path, gsd=0.5, size=4)
    assert source.gsd == 2.0
    assert source.read(0).shape == (3, 4, 4)


def test_gsd_comes_from_the_georeference(tmp_path):
    for number in range(3):
        write_raster(tmp_path / "a" / f"{number}.tif", noise(number), gsd=3.0)
    assert FolderScenes(tmp_path).gsd == 3.0
    write_raster(tmp_path / "b" / "0.tif", noise(9))
    assert FolderScenes(tmp_path, classes=["a"]).gsd == 3.0


def test_odd_shapes_become_the_commonest_square(tmp_path):
    write_folder(tmp_path)
    write_raster(tmp_path / "farm" / "odd.png", noise(50, 3, 20)[:, :17, :])
    source = FolderScenes(tmp_path, gsd=1.0)
    assert {source.read(i).shape for i in range(len(source))} == {(3, 16, 16)}


def test_permuted_descriptions_are_put_right(tmp_path):
    names = ["blue", "green", "red", "nir"]
    for number, order in enumerate([(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)]):
        planes = noise(number, 4, dtype="uint16")
        write_raster(tmp_path / "a" / f"{number}.tif", planes[list(order)], [names[i] for i in order])
    source = FolderScenes(tmp_path, bands="bgrn", gsd=1.0)
    for number in range(3):
        np.testing.assert_array_equal(source.read(number), noise(number, 4, dtype="uint16"))
    write_raster(tmp_path / "a" / "3.tif", noise(3, 4, dtype="uint16"), ["B01", "B02", "B03", "B04"])
    with pytest.raises(BandError, match=r"3\.tif describes its bands as B01, B02, B03, B04; none of them is 'blue'"):
        FolderScenes(tmp_path, bands="bgrn", gsd=1.0)


@pytest.mark.parametrize("dtype, sensor", [("uint8", "rgb"), ("uint16", "bgrn")])
def test_band_names_alone_find_their_sensor_by_type(tmp_path, dtype, sensor):
    write_raster(tmp_path / "a" / "0.tif", noise(0, 2, dtype=dtype))
    source = FolderScenes(tmp_path, bands=["red", "green"], gsd=1.0)
    assert (source.bands.sensor, source.bands.names) == (sensor, ("red", "green"))


def test_described_sensor_and_nodata_of_the_file(tmp_path):
    pixels = noise(0, 2).astype("float32")
    pixels[0, 0, 0] = -99
    write_raster(tmp_path / "a" / "0.tif", pixels, nodata=-99)
    described = {"sensor": "radar", "dtype": "float32", "bands": [{"name": "VV"}, {"name": "VH"}]}
    source = FolderScenes(tmp_path, bands=described, gsd=10.0)
    assert source.bands.nodata == -99
    assert source.read(0)[0, 0, 0] == -99


def test_unplain_bands_must_be_named(tmp_path):
    write_raster(tmp_path / "a" / "0.tif", noise(0, 4, dtype="uint16"))
    with pytest.raises(BandError, match=r"chips of 4 band\(s\) of type uint16; say with option bands"):
        FolderScenes(tmp_path, gsd=1.0)
    with pytest.raises(UnknownNameError, match="unknown band 'infrared'"):
        FolderScenes(tmp_path, gsd=1.0, bands=["red", "green", "blue", "infrared"])
    with pytest.raises(DatasetError, match=r"1 of 1 chips cannot be used.*has 4 band\(s\), but this dataset has 13"):
        FolderScenes(tmp_path, gsd=1.0, bands="sentinel2")


def test_equal_images_form_a_group(tmp_path):
    write_folder(tmp_path, per_class=3)
    write_raster(tmp_path / "port" / "copy.png", noise(1, 3, 16))
    groups = FolderScenes(tmp_path, gsd=1.0).duplicate_groups()
    assert len(set(groups)) == 6
    assert groups[1] == groups[6]


def test_a_few_bad_chips_are_counted_named_and_skipped(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "farm" / "0.png").write_bytes(b"")
    Image.fromarray(noise(0, 1)[0]).save(tmp_path / "farm" / "1.png")
    Image.fromarray(noise(0, 4).transpose(1, 2, 0)).save(tmp_path / "port" / "2.png")
    whole = (tmp_path / "port" / "3.png").read_bytes()
    (tmp_path / "port" / "3.png").write_bytes(whole[:200])
    with pytest.warns(SkippedChipsWarning) as caught:
        source = FolderScenes(tmp_path, gsd=1.0, max_bad=4)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "skipped 4 of 12 chips" in text
    for words in ("0.png is empty", "1.png has 1 band", "2.png has 4 band", "3.png cannot be read"):
        assert words in text
    assert source.labels.tolist() == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(source.read(0), noise(2, 3, 16))
    with pytest.raises(DatasetError, match="4 of 12 chips cannot be used, more than the 3 allowed by max_bad"):
        FolderScenes(tmp_path, gsd=1.0, max_bad=3)


def test_one_in_a_hundred_may_be_bad_without_asking(tmp_path):
    write_folder(tmp_path, per_class=100, side=2)
    for number in range(2):
        (tmp_path / "farm" / f"{number}.png").write_bytes(b"")
    with pytest.warns(SkippedChipsWarning, match="skipped 2 of 200"):
        FolderScenes(tmp_path, gsd=1.0)
    (tmp_path / "farm" / "2.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="3 of 200 chips cannot be used, more than the 2 allowed"):
        FolderScenes(tmp_path, gsd=1.0)


def test_sound_folders_warn_of_nothing(tmp_path):
    for number in range(3):
        write_raster(tmp_path / "a" / f"{number}.tif", noise(number))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FolderScenes(tmp_path, gsd=1.0).read(0)


def test_a_class_lost_to_bad_chips_is_named(tmp_path):
    write_folder(tmp_path)
    write_photo(tmp_path / "quay" / "0.jpg", noise(0, 1))
    with pytest.warns(SkippedChipsWarning), pytest.raises(DatasetError, match="no chip of class 'quay' can be used"):
        FolderScenes(tmp_path, gsd=1.0)


def test_excluded_classes_are_never_read(tmp_path, monkeypatch):
    write_folder(tmp_path, classes=("farm", "port", "secret"))
    opened = []
    for library in (Image, rasterio):

        def noted(path, *rest, kept=library.open, **options):
            opened.append(Path(path).parent.name)
            return kept(path, *rest, **options)

        monkeypatch.setattr(library, "open", noted)
    data = load_dataset("folder", tmp_path, gsd=1.0, classes=["port", "farm"])
    assert [c.key for c in data.classes] == ["farm", "port"]
    assert data.train.images().shape[0] == len(data.train)
    assert set(opened) == {"farm", "port"}


def test_missing_and_empty_roots(tmp_path):
    with pytest.raises(OptionError, match="'folder' needs option root"):
        load_dataset("folder")
    with pytest.raises(DatasetError, match="gone does not exist"):
        FolderScenes(tmp_path / "gone")
    with pytest.raises(DatasetError, match="is empty of class folders"):
        FolderScenes(tmp_path)
    (tmp_path / "farm").mkdir()
    (tmp_path / "farm" / "notes.txt").write_text("none here")
    with pytest.raises(DatasetError, match="farm holds no .jpg"):
        FolderScenes(tmp_path)
    (tmp_path / "farm" / "0.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="no chip of those tried can be read; the first: .*0.png is empty"):
        FolderScenes(tmp_path)


def test_wrong_options_are_named(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(OptionError, match="no projected coordinate system .* give option gsd"):
        FolderScenes(tmp_path)
    for option, value in {"gsd": 0.0, "size": 0, "max_bad": -1, "classes": []}.items():
        with pytest.raises(OptionError, match=f"option {option}"):
            FolderScenes(tmp_path, **{"gsd": 1.0, option: value})
    with pytest.raises(UnknownNameError, match="'prot'.* did you mean 'port'"):
        FolderScenes(tmp_path, gsd=1.0, classes=["prot"])
    with pytest.raises(UnknownNameError, match="'sizes'.* did you mean 'size'"):
        load_dataset("folder", tmp_path, gsd=1.0, sizes=8)


def test_a_chip_that_vanishes_later_is_named(tmp_path):
    source = FolderScenes(write_folder(tmp_path), gsd=1.0)
    source.path(0).unlink()
    with pytest.raises(ChipError, match=r"0\.png cannot be read"):
        source.read(0)


def test_sources_go_to_loader_workers(tmp_path):
    source = FolderScenes(write_folder(tmp_path), gsd=1.0)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(3), source.read(3))
