"""Files whose bands are permuted, missing, unknown or empty, through the readers of datasets."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.fake_scenes import EUROSAT_PLANES, LAYOUTS, noise, write_dataset, write_raster

from rsdistill.bands import get_bands
from rsdistill.datasets import FolderScenes, load_dataset
from rsdistill.datasets.prepared import BandStatistics
from rsdistill.datasets.reading import SkippedChipsWarning
from rsdistill.datasets.real_chips import RealChips
from rsdistill.errors import BandError, DatasetError, UnknownNameError
from rsdistill.imaging.normalisation import RangeNormalisation

S2 = get_bands("sentinel2")
BY_WAVELENGTH = S2.names


def by_wavelength(planes):
    """Planes in the order of EuroSAT's files brought to that of wavelengths, where B8A is the ninth."""
    return planes[[EUROSAT_PLANES.index(name) for name in BY_WAVELENGTH]]


@pytest.fixture
def eurosat(tmp_path):
    """A small EuroSAT and the folder of its class Forest."""
    write_dataset(tmp_path, "eurosat", ("Forest", "River"), per_class=3)
    return tmp_path, tmp_path / LAYOUTS["eurosat"][0] / "Forest"


def test_eurosat_file_in_another_order_is_put_right_by_its_descriptions(eurosat):
    root, forest = eurosat
    planes, order = noise(7, 13, dtype="uint16"), np.random.default_rng(0).permutation(13)
    write_raster(forest / "Forest_0.tif", planes[order], [EUROSAT_PLANES[i] for i in order])
    source = load_dataset("eurosat", root, val=0).source
    np.testing.assert_array_equal(source.read(0), by_wavelength(planes))
    some = load_dataset("eurosat", root, val=0, bands=["B8A", "B09", "B08"]).source
    np.testing.assert_array_equal(some.read(0), planes[[EUROSAT_PLANES.index(b) for b in ("B8A", "B09", "B08")]])


def test_eurosat_file_that_contradicts_the_order_is_caught(eurosat):
    root, forest = eurosat
    said = [name if name == "B8A" else None for name in BY_WAVELENGTH]
    write_raster(forest / "Forest_0.tif", noise(7, 13, dtype="uint16"), said)
    with pytest.raises(BandError, match=r"Forest_0\.tif describes its band 9 as 'B8A', but the dataset has 'B09'"):
        load_dataset("eurosat", root, val=0)


@pytest.mark.parametrize(
    "spell",
    [
        str,
        lambda name: name.replace("B0", "b"),
        "{}, central wavelength".format,
        lambda name: S2.bands[S2.index(name)].title,
    ],
    ids=["name", "short", "sentence", "title"],
)
def test_folder_of_sentinel2_chips_matches_b8a_by_name(tmp_path, spell):
    """With B8A between B8 and B9, as most programs write it, or with B8A last, as EuroSAT does."""
    planes = noise(3, 13, dtype="uint16")
    spelt = {name: spell(name) for name in S2.names}
    write_raster(tmp_path / "a" / "0.tif", planes, [spelt[name] for name in EUROSAT_PLANES])
    write_raster(tmp_path / "a" / "1.tif", by_wavelength(planes), [spelt[name] for name in BY_WAVELENGTH])
    source = FolderScenes(tmp_path, bands="sentinel2", gsd=10.0)
    np.testing.assert_array_equal(source.read(0), by_wavelength(planes))
    np.testing.assert_array_equal(source.read(1), by_wavelength(planes))
    narrow = FolderScenes(tmp_path, bands=["B8A"], gsd=10.0)
    np.testing.assert_array_equal(narrow.read(0), planes[[12]])


def test_bands_unknown_to_the_sensor_are_named(eurosat):
    root, _ = eurosat
    with pytest.raises(UnknownNameError, match="unknown band of sensor sentinel2: 'B8B': did you mean 'B8A'"):
        load_dataset("eurosat", root, bands=["B04", "B8B"])
    with pytest.raises(UnknownNameError, match="'nir'"):
        load_dataset("eurosat", root, bands=["nir"])
    with pytest.raises(UnknownNameError, match="'B13'"):
        load_dataset("synthetic", bands=["B04", "B13"])


def test_a_chip_of_another_number_of_bands_is_named(eurosat):
    root, forest = eurosat
    write_raster(forest / "Forest_0.tif", noise(7, 12, dtype="uint16"))
    with pytest.warns(SkippedChipsWarning, match=r"Forest_0\.tif has 12 band\(s\), but this dataset has 13 \(B01,"):
        data = load_dataset("eurosat", root, val=0)
    assert len(data.source) == 5
    with pytest.raises(DatasetError, match="more than the 0 allowed by max_bad"):
        load_dataset("eurosat", root, val=0, max_bad=0)


@pytest.mark.parametrize("wide", [False, True], ids=["all of it", "its central square"])
def test_chips_without_measurement_are_skipped_by_name(eurosat, wide):
    root, forest = eurosat
    planes = np.zeros((13, 16, 40 if wide else 16), np.uint16)
    if wide:
        planes[:, :, :5] = 900
    write_raster(forest / "Forest_0.tif", planes)
    with pytest.warns(SkippedChipsWarning, match=r"Forest_0\.tif holds no measurement"):
        data = load_dataset("eurosat", root, val=0)
    assert "Forest/Forest_0.tif" not in data.source.chip_ids


def test_a_band_without_measurement_is_named_before_anything_is_learnt(tmp_path):
    for number in range(12):
        planes = noise(number, 13, dtype="uint16")
        planes[EUROSAT_PLANES.index("B10")] = 0
        write_raster(tmp_path / LAYOUTS["eurosat"][0] / "Forest" / f"Forest_{number}.tif", planes)
    data = load_dataset("eurosat", tmp_path, val=0)
    statistics = BandStatistics(data.bands, 1000)
    statistics.update(data.train.images())
    (empty,) = [band for band in statistics.compute() if not band["count"]]
    assert empty["name"] == "B10" and empty["mean"] is None
    with pytest.raises(BandError, match="band 'B10' has no valid pixel in train"):
        RangeNormalisation.fit(data.train.images(), data.bands)
    with pytest.raises(DatasetError, match="band 'B10' has no valid pixel"):
        RealChips.read(data, 8)
