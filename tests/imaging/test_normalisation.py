"""Normalisation: exact both ways in every depth, from robust statistics, and blind to pixels without data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rsdistill.bands import Band, BandSet, get_bands
from rsdistill.errors import BandError
from rsdistill.imaging.normalisation import RangeNormalisation, sample_positions, to_sensor

BGRN = get_bands("bgrn")
FLOAT = BandSet((Band("a"), Band("b")), dtype="float32", valid_range=(-50.0, 50.0), nodata=-9999.0)
WIDE = BandSet((Band("a"), Band("b")), dtype="uint16", valid_range=(0.0, 65535.0))


@given(arrays(np.uint16, (3, 2, 4, 4), elements=st.integers(0, 65535)))
@settings(max_examples=60, deadline=None)
def test_normalisation_is_undone_exactly(images):
    ranges = RangeNormalisation.fit(images, WIDE)
    back = ranges.inverse(ranges.forward(torch.from_numpy(images), WIDE))
    assert np.array_equal(to_sensor(back, WIDE), images)


@given(arrays(np.float32, (2, 2, 4, 4), elements=st.floats(-50, 50, width=32)))
@settings(max_examples=60, deadline=None)
def test_normalisation_of_floats_is_undone_to_rounding(images):
    ranges = RangeNormalisation.fit(images, FLOAT)
    back = to_sensor(ranges.inverse(ranges.forward(torch.from_numpy(images), FLOAT)), FLOAT)
    np.testing.assert_allclose(back, images, rtol=1e-5, atol=1e-4)


def test_each_band_spans_its_robust_range():
    images = np.random.default_rng(0).uniform(0, 40, (20, 2, 8, 8)).astype(np.float32)
    images[:, 1] /= 10
    normalised = RangeNormalisation.fit(images, FLOAT).forward(torch.from_numpy(images), FLOAT)
    for band in normalised.unbind(1):
        low, high = np.percentile(band.numpy(), (0.5, 99.5))
        assert (low, high) == pytest.approx((-1.0, 1.0), abs=1e-4)
    assert normalised.max() > 1.0


def test_a_constant_band_has_a_range():
    images = np.full((2, 2, 4, 4), 7.0, np.float32)
    ranges = RangeNormalisation.fit(images, FLOAT)
    normalised = ranges.forward(torch.from_numpy(images), FLOAT)
    assert torch.all(normalised == -1.0) and torch.allclose(ranges.inverse(normalised), torch.tensor(7.0))


def test_pixels_without_data_neither_count_nor_blow_up():
    clean = np.random.default_rng(0).uniform(0, 40, (8, 2, 8, 8)).astype(np.float32)
    spoilt = np.concatenate([clean, np.full((1, 2, 8, 8), -9999.0, np.float32)])
    spoilt[-1, 0, 0, 0], spoilt[-1, 0, 0, 1] = np.nan, np.inf
    ranges = RangeNormalisation.fit(spoilt, FLOAT)
    assert ranges == RangeNormalisation.fit(clean, FLOAT)
    assert torch.all(ranges.forward(torch.from_numpy(spoilt), FLOAT)[-1] == -1.0)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_band_without_any_data_is_named(dtype):
    bands = BandSet((Band("red"), Band("swir")), dtype=dtype, valid_range=(1, 255), nodata=0)
    images = np.full((2, 2, 4, 4), 9, dtype)
    images[:, 1] = 0
    with pytest.raises(BandError, match="band 'swir' has no valid pixel"):
        RangeNormalisation.fit(images, bands)


def test_eight_bit_imagery_takes_its_whole_range():
    ranges = RangeNormalisation.fit(np.full((1, 3, 2, 2), 90, np.uint8), get_bands("rgb"))
    assert ranges == RangeNormalisation((0.0,) * 3, (255.0,) * 3)


def test_sensor_units_are_rounded_and_clipped():
    image = torch.tensor([-5.0, 1.4, 2.6, 20000.0]).reshape(1, 1, 2, 2).expand(1, 4, 2, 2)
    assert to_sensor(image, BGRN)[0, 0].tolist() == [[1, 1], [3, 10000]]


def test_statistics_come_from_a_bounded_sample():
    assert sample_positions(20, 0).tolist() == list(range(20))
    many = sample_positions(5000, 1)
    assert len(many) == len(set(many)) == 512 and many.max() > 4000
    assert np.array_equal(many, sample_positions(5000, 1)) and not np.array_equal(many, sample_positions(5000, 2))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 65535.0), (1.0, 66.5), (137.25, 2481.75), (60000.3, 60065.8), (1000.0, 1065.535)]
)
def test_every_value_of_sixteen_bits_survives(low, high):
    every = np.arange(65536, dtype=np.uint16).reshape(1, 1, 256, 256).repeat(2, axis=1)
    ranges = RangeNormalisation((low, 0.0), (high, 65535.0))
    assert np.array_equal(to_sensor(ranges.inverse(ranges.forward(torch.from_numpy(every), WIDE)), WIDE), every)


def test_twelve_bits_keep_all_their_levels():
    bands = BandSet((Band("a"), Band("b")), dtype="uint16", valid_range=(0.0, 4095.0))
    every = np.arange(4096, dtype=np.uint16).reshape(1, 1, 64, 64).repeat(2, axis=1)
    ranges = RangeNormalisation.fit(every, bands)
    normalised = ranges.forward(torch.from_numpy(every), bands)
    assert len(torch.unique(normalised[:, 0])) == 4096
    assert len(np.unique(to_sensor(ranges.inverse(normalised), bands))) == 4096


def test_saturated_pixels_are_kept_and_stop_at_the_limit_of_the_sensor():
    images = np.random.default_rng(0).integers(200, 3000, (4, 4, 16, 16)).astype(np.uint16)
    images[0, :, 0, 0] = 10000
    ranges = RangeNormalisation.fit(images, BGRN)
    normalised = ranges.forward(torch.from_numpy(images), BGRN)
    assert normalised[0, :, 0, 0].min() > 3.0
    assert np.array_equal(to_sensor(ranges.inverse(normalised), BGRN), images)
    assert np.all(to_sensor(ranges.inverse(normalised * 1.5), BGRN)[0, :, 0, 0] == 10000)


def test_a_decoded_value_is_never_nodata():
    inside = BandSet((Band("a"),), dtype="int16", valid_range=(-100.0, 100.0), nodata=0.0)
    values = torch.tensor([[-0.4, 0.3], [1.2, -7.0]]).reshape(1, 1, 2, 2)
    assert to_sensor(values, inside)[0, 0].tolist() == [[1, 1], [1, -7]]
    edge = BandSet((Band("a"),), dtype="uint8", valid_range=(0.0, 255.0), nodata=255.0)
    assert to_sensor(torch.full((1, 1, 1, 1), 300.0), edge).item() == 254


def test_missing_pixels_can_be_marked():
    images = torch.tensor([[5.0, -9999.0], [np.nan, 7.0]]).reshape(1, 1, 2, 2).repeat(1, 2, 1, 1)
    ranges = RangeNormalisation((5.0, 5.0), (7.0, 7.0))
    marked = ranges.forward(images, FLOAT, fill=np.nan)
    assert torch.equal(torch.isnan(marked[0, 0]), torch.tensor([[False, True], [True, False]]))
    assert marked[0, 0, 0, 0] == -1.0 and marked[0, 0, 1, 1] == 1.0
