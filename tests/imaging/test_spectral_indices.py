"""Spectral indices: values, bands found by wavelength or name, missing measurements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rsdistill.bands import Band, BandSet, get_bands
from rsdistill.errors import BandError, UnknownNameError
from rsdistill.imaging.spectral_indices import available, index_bands, list_indices, spectral_index

S2, RGB, BGRN = get_bands("sentinel2"), get_bands("rgb"), get_bands("bgrn")


def chip(bands, **values):
    """One pixel whose bands hold the values given, others 1."""
    image = np.ones((1, len(bands), 1, 1), bands.dtype)
    for name, value in values.items():
        image[0, bands.index(name)] = value
    return image


@pytest.mark.parametrize(
    ("name", "high", "low"),
    [("ndvi", "B08", "B04"), ("ndwi", "B03", "B08"), ("mndwi", "B03", "B11"), ("ndbi", "B11", "B08")],
)
def test_indices_of_sentinel2_use_the_bands_of_their_papers(name, high, low):
    assert index_bands(name, S2) == (S2.index(high), S2.index(low))
    value = spectral_index(name, chip(S2, **{high: 3000, low: 1000}), S2)
    assert value.shape == (1, 1, 1) and value.dtype == np.float32
    assert value.item() == pytest.approx(0.5)


def test_order_of_the_bands_does_not_matter():
    images = np.random.default_rng(0).integers(1, 10000, (3, 13, 4, 4)).astype("uint16")
    order = np.random.default_rng(1).permutation(13)
    permuted = S2.select([S2.names[i] for i in order])
    for name in list_indices():
        np.testing.assert_array_equal(
            spectral_index(name, images, S2), spectral_index(name, images[:, order], permuted)
        )


def test_what_a_sensor_allows():
    assert available(S2) == ["ndvi", "ndwi", "mndwi", "ndbi"]
    assert available(BGRN) == ["ndvi", "ndwi"]
    assert available(RGB) == []


@pytest.mark.parametrize(
    ("name", "bands", "lacking"),
    [
        ("ndvi", RGB, "near infrared"),
        ("ndbi", BGRN, "short-wave infrared"),
        ("ndvi", get_bands("sentinel2", ["B08", "B05"]), "a red band"),
        ("ndwi", get_bands("sentinel2", ["B02", "B08"]), "a green band"),
        ("ndvi", get_bands("sentinel2", ["B04", "B07"]), "near infrared"),
    ],
)
def test_a_missing_band_is_named_and_no_neighbour_stands_in(name, bands, lacking):
    with pytest.raises(BandError, match=lacking):
        index_bands(name, bands)


def test_unknown_index_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'ndvi'"):
        spectral_index("ndvii", chip(S2), S2)


def test_bands_without_wavelength_are_found_by_name_or_title():
    bands = BandSet((Band("NIR"), Band("2", title="red"), Band("Green")), "drone", "uint8")
    assert index_bands("NDVI", bands) == (0, 1)
    assert available(bands) == ["ndvi", "ndwi"]


def test_nodata_and_not_a_number_have_no_index_and_zero_by_zero_is_zero():
    image = chip(S2, B08=0, B04=500)
    assert np.isnan(spectral_index("ndvi", image, S2)).all()
    assert spectral_index("ndwi", chip(S2, B04=0), S2).item() == 0.0, "a band that the index does not use"
    floats = replace(S2, dtype="float32", scale=1.0, nodata=None)
    assert spectral_index("ndvi", chip(floats, B08=0, B04=0), floats).item() == 0.0
    assert np.isnan(spectral_index("ndvi", chip(floats, B08=np.nan), floats)).all()
    assert np.isnan(spectral_index("ndvi", chip(floats, B08=-np.inf), floats)).all()


def test_scale_and_offset_come_before_the_ratio():
    shifted = replace(S2, offset=-0.1)
    # Reflectances 0.3 and 0.1, stored with the 1000 counts that ESA adds since baseline 04.00.
    assert spectral_index("ndvi", chip(S2, B08=4000, B04=2000), shifted).item() == pytest.approx(0.5)
    # Negative reflectance of red over water counts as none.
    assert spectral_index("ndvi", chip(S2, B08=1500, B04=900), shifted).item() == 1.0


def test_images_that_do_not_fit_the_bands_are_refused():
    with pytest.raises(BandError, match="3"):
        spectral_index("ndvi", np.ones((2, 3, 4, 4)), S2)


@settings(deadline=None, max_examples=50)
@given(arrays(np.int16, (2, 4, 3, 3), elements=st.integers(-500, 20000)))
def test_values_lie_between_minus_one_and_one(images):
    bands = replace(BGRN, dtype="int16", valid_range=(-500.0, 20000.0), nodata=-500.0, offset=-0.01)
    for name in available(bands):
        values = spectral_index(name, images, bands)
        missing = (images[:, list(index_bands(name, bands))] == -500).any(axis=1)
        np.testing.assert_array_equal(np.isnan(values), missing)
        assert (np.abs(values[~missing]) <= 1).all()
