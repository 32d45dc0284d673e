"""Agreement of a set with its classes against scipy and against sets of known spectra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets import load_dataset
from rsdistill.distilled import DistilledSet
from rsdistill.errors import BandError, UnknownNameError
from rsdistill.evaluation import (
    chip_spectra,
    class_agreement,
    index_distance,
    mean_spectrum,
    spectrum_correlation,
    spectrum_distance,
)
from rsdistill.imaging.spectral_indices import spectral_index

S2 = get_bands("sentinel2")


def chips(seed, count=4, side=6):
    return np.random.default_rng(seed).integers(1, 8000, (count, 13, side, side)).astype("uint16")


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 6))
def test_figures_of_two_stacks_equal_scipys(seed, first, second):
    real, made = chips(seed, first), chips(seed + 1, second, side=5)
    spectra = [images.astype(float).mean(axis=(0, 2, 3)) * 1e-4 for images in (real, made)]
    assert spectrum_correlation(real, made, S2) == pytest.approx(stats.pearsonr(*spectra).statistic)
    assert spectrum_distance(real, made, S2) == pytest.approx(np.sqrt(np.mean((spectra[0] - spectra[1]) ** 2)))
    values = [spectral_index("ndbi", images, S2).ravel() for images in (real, made)]
    assert index_distance("ndbi", real, made, S2) == pytest.approx(stats.wasserstein_distance(*values))


def test_distance_of_an_index_is_the_shift_of_its_distribution():
    two = S2.select(["B08", "B04"])
    low, high = np.full((1, 2, 3, 3), 1000, "uint16"), np.full((2, 2, 4, 4), 1000, "uint16")
    high[:, 0] = 3000
    assert index_distance("ndvi", low, high, two) == pytest.approx(0.5)
    assert index_distance("ndvi", high, high[:1], two) == 0


def test_brighter_spectra_correlate_but_lie_apart():
    real = chips(0)
    made = (real // 2).astype("uint16")
    assert spectrum_correlation(real, made, S2) == pytest.approx(1, abs=1e-4)
    expected = np.sqrt(np.mean((mean_spectrum(real, S2) / 2) ** 2))
    assert spectrum_distance(real, made, S2) == pytest.approx(expected, rel=1e-2)


def test_chips_count_alike_and_gaps_not_at_all():
    images = np.full((2, 13, 4, 4), 1000, "uint16")
    images[0, :, :3] = 0  # three quarters of the first chip are missing
    images[1] = 3000
    np.testing.assert_allclose(chip_spectra(images, S2)[:, 0], [0.1, 0.3])
    np.testing.assert_allclose(mean_spectrum(images, S2), 0.2)


def test_what_is_not_defined_is_not_a_number():
    flat, other = np.full((1, 13, 4, 4), 1000, "uint16"), chips(0)
    assert np.isnan(spectrum_correlation(flat, other, S2))
    nothing = 0 * other
    assert np.isnan(spectrum_correlation(other, nothing, S2)) and np.isnan(spectrum_distance(other, nothing, S2))
    assert np.isnan(index_distance("ndvi", other, nothing, S2))
    assert np.isnan(spectrum_distance(other[:0], other, S2))


def test_a_band_without_measurement_is_left_out():
    real, made = chips(0), chips(1)
    made[:, 10] = 0
    rest = [name for name in S2.names if name != "B10"]
    wanted = spectrum_correlation(real[:, S2.indices(rest)], made[:, S2.indices(rest)], S2.select(rest))
    assert spectrum_correlation(real, made, S2) == pytest.approx(wanted)


def test_stacks_of_other_bands_are_refused():
    with pytest.raises(BandError, match="12 band"):
        chip_spectra(chips(0)[:, :12], S2)


@pytest.fixture(scope="module")
def data():
    options = {"size": 16, "bands": "sentinel2", "classes": ["forest", "beach"], "chips_per_class": 12}
    return load_dataset("synthetic", **options)


def of_chips(data, images, labels):
    return DistilledSet(images, labels, data.classes, data.bands, data.gsd, {"method": "trial"})


def test_the_chips_themselves_agree_in_full(data):
    rows = class_agreement(of_chips(data, data.train.images(), data.train.labels), data)
    assert [row.key for row in rows] == ["forest", "beach"]
    for row in rows:
        assert row.correlation == pytest.approx(1) and row.distance == pytest.approx(0, abs=1e-12)
        assert set(row.indices) == {"ndvi", "ndwi", "mndwi", "ndbi"} and max(row.indices.values()) == 0


def test_classes_that_were_swapped_disagree(data):
    right = class_agreement(of_chips(data, data.test.images(), data.test.labels), data)
    wrong = class_agreement(of_chips(data, data.test.images(), 1 - data.test.labels), data)
    for good, bad in zip(right, wrong, strict=True):
        assert good.correlation > bad.correlation and good.distance < bad.distance
        assert good.indices["ndvi"] < bad.indices["ndvi"]


def test_classes_asked_for_and_sets_with_fewer(data):
    tiles = of_chips(data, data.test.images(), data.test.labels)
    beach = tiles.subset(tiles.label == 1)
    assert [row.key for row in class_agreement(beach, data)] == ["beach"]
    alone = replace(beach, label=0 * beach.label, classes=(ClassInfo("beach", "beach"),))
    assert class_agreement(alone, data) == class_agreement(beach, data)
    with pytest.raises(UnknownNameError, match="beaches"):
        class_agreement(tiles, data, ["beaches"])
    (forest,) = class_agreement(beach, data, ["forest"])
    assert forest.correlation is None and forest.distance is None and forest.indices["ndvi"] is None
