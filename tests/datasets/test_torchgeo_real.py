"""The real thing: counts, odd sizes, duplicates and band order of the original images."""

import numpy as np
import pytest
from helpers.fake_scenes import EUROSAT_PLANES, LAYOUTS

from rsdistill.datasets import load_dataset

pytestmark = pytest.mark.real_data


def test_ucmerced(real_data_root):
    source = load_dataset("ucmerced", real_data_root / "ucmerced", scheme="published", size=64).source
    assert np.bincount(source.labels).tolist() == [100] * 21
    assert source.gsd == pytest.approx(1.2)
    odd = [i for i in range(len(source)) if source.reader(source.path(i)).pixels.shape != (3, 256, 256)]
    assert len(odd) == 44
    assert {source.read(i).shape for i in odd} == {(3, 64, 64)}
    # airplane01 and airplane02 are the same picture.
    groups = source.duplicate_groups()
    first, second = (source.chip_ids.index(f"airplane/airplane0{n}.tif") for n in (1, 2))
    assert groups[first] == groups[second]


def test_ucmerced_halves(real_data_root):
    classes = ["airplane", "beach", "river"]
    data = load_dataset("ucmerced", real_data_root / "ucmerced", scheme="published", val=0, classes=classes)
    assert np.bincount(data.train.labels).tolist() == [50] * 3
    assert np.bincount(data.test.labels).tolist() == [50] * 3


@pytest.mark.slow
def test_aid(real_data_root):
    data = load_dataset("aid", real_data_root / "aid", scheme="published", size=64)
    counts = np.bincount(data.source.labels)
    assert (len(data.classes), counts.sum(), counts.min(), counts.max()) == (30, 10000, 220, 420)
    assert abs(len(data.test) - 5000) <= 30
    assert data.gsd == pytest.approx(2.0 * 600 / 64)


def test_eurosat_b8a_by_content(real_data_root):
    """B8A lies within B08's window: over vegetation the two agree, while B09 in its place would be far off."""
    data = load_dataset("eurosat", real_data_root / "eurosat_ms", classes=["Forest", "Pasture", "AnnualCrop"])
    assert (data.gsd, data.source.size) == (10.0, 64)
    pixels = data.train.images().astype(float).transpose(1, 0, 2, 3).reshape(13, -1)
    bands = dict(zip(data.bands.names, pixels, strict=True))
    gap = {name: np.abs(values - bands["B08"]).mean() for name, values in bands.items() if name != "B08"}
    assert "B8A" in sorted(gap, key=gap.get)[:2]
    assert gap["B8A"] < 0.3 * gap["B09"]
    # What stands last in the file is near infrared; the second short-wave band is not.
    last = data.source.reader(data.source.path(0)).pixels[EUROSAT_PLANES.index("B8A")]
    np.testing.assert_array_equal(data.source.read(0)[data.bands.index("B8A")], last)
    assert bands["B8A"].mean() > 1.5 * bands["B12"].mean()


def test_eurosat_sample(real_data_root):
    assert (real_data_root / "eurosat_ms" / LAYOUTS["eurosat"][0]).is_dir()
    data = load_dataset("eurosat", real_data_root / "eurosat_ms")
    counts = np.bincount(data.source.labels)
    assert (len(data.classes), counts.sum(), counts.min(), counts.max()) == (10, 270, 20, 30)
    assert data.source.read(0).dtype == np.uint16
