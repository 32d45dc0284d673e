"""Bands go by name, however spelt, and pictures by wavelength."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rsdistill.bands import (
    FALSE_COLOUR,
    NATURAL_COLOUR,
    Band,
    BandSet,
    find_bands,
    get_bands,
    list_sensors,
    parse_bands,
)
from rsdistill.errors import BandError, UnknownNameError, suggestion
from rsdistill.imaging.composites import stretch_limits, to_rgb

S2 = get_bands("sentinel2")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("B8A", "B8A"), ("b8a", "B8A"), ("B2", "B02"), ("B02", "B02"), ("b_08", "B08"), ("B10", "B10")],
)
def test_a_band_is_found_however_it_is_spelt(spelling, name):
    assert S2.names[S2.index(spelling)] == name


def test_bands_of_hyperspectral_sensors_stay_apart():
    bands = BandSet(tuple(Band(f"B{number}") for number in (1, 10, 15, 100, 105, 1005)))
    assert [bands.index(name) for name in bands.names] == list(range(6))
    assert bands.index("B0100") == 3


def test_an_unknown_band_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"sensor sentinel2: 'B8AA': did you mean 'B8A'"):
        S2.index("B8AA")


def test_selection_keeps_the_order_asked_for():
    assert S2.select(["b8a", "B2"]).names == ("B8A", "B02")
    assert get_bands("sentinel2", ["B4", "B3"]).names == ("B04", "B03")


def test_two_bands_of_one_name_or_none_are_refused():
    with pytest.raises(BandError, match="'b2' appears twice"):
        BandSet((Band("B02"), Band("b2")))
    with pytest.raises(BandError, match="has no bands"):
        BandSet(())


@pytest.mark.parametrize("sensor", list_sensors())
def test_a_set_survives_plain_types(sensor):
    bands = get_bands(sensor)
    assert BandSet.from_dict(bands.to_dict()) == bands


def test_parsing_takes_a_sensor_names_or_a_description():
    default = get_bands("bgrn")
    assert parse_bands("rgb", default) == get_bands("rgb")
    assert parse_bands(["nir", "red"], default).names == ("nir", "red")
    assert parse_bands({"scale": 1.0}, default) == replace(default, scale=1.0)
    with pytest.raises(BandError, match="description of bands is not valid"):
        parse_bands({"bands": [{"nmae": "a"}]}, default)
    with pytest.raises(UnknownNameError, match="unknown sensor 'rbg': did you mean 'rgb'"):
        parse_bands("rbg", default)


def test_composites_choose_by_wavelength():
    bgrn = get_bands("bgrn")
    assert bgrn.composite(NATURAL_COLOUR) == [2, 1, 0]
    assert bgrn.composite(FALSE_COLOUR) == [3, 2, 1]
    assert [S2.names[i] for i in S2.composite(NATURAL_COLOUR)] == ["B04", "B03", "B02"]
    assert S2.has(FALSE_COLOUR) and not get_bands("rgb").has(FALSE_COLOUR)


def test_composites_fall_back_where_wavelengths_lack():
    assert get_bands("rgb").composite(FALSE_COLOUR) == [0, 1, 2]
    assert get_bands("bgrn", ["nir"]).composite() == [0, 0, 0]
    assert BandSet((Band("vv"), Band("vh"))).composite() == [0, 0, 0]
    with pytest.raises(BandError, match="no band of sensor 'rgb'"):
        get_bands("rgb").nearest(2.2)


def test_eight_bit_pictures_are_shown_as_they_are():
    image = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    assert np.array_equal(to_rgb(image, get_bands("rgb")), image.transpose(0, 2, 3, 1))


def test_invalid_pixels_are_black_and_do_not_shift_the_stretch():
    bands = BandSet((Band("a"),), dtype="float32", valid_range=(0.0, 1.0), nodata=9999.0)
    image = np.linspace(0.2, 0.8, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    clean = stretch_limits(image, bands)
    image[0, 0, 0, :3] = (9999.0, np.nan, np.inf)
    low, high = stretch_limits(image, bands)
    assert np.all(low >= clean[0]) and np.allclose(high, clean[1], atol=0.01)
    picture = to_rgb(image, bands)
    assert picture.shape == (1, 8, 8, 3) and not picture[0, 0, :3].any() and picture[0, -1, -1, 0] == 255


def test_a_constant_picture_is_rendered():
    bands = get_bands("bgrn")
    assert np.isfinite(to_rgb(np.full((1, 4, 2, 2), 500, np.uint16), bands)).all()


def test_suggestions_list_what_is_known():
    assert suggestion("herdin", ["kmeans", "herding"]) == "did you mean 'herding'? (known: herding, kmeans)"
    assert suggestion("zzz", ["kmeans"]) == "known: kmeans"
    assert suggestion("x", []) == "none is known"


def test_names_that_the_default_lacks_are_another_sensors():
    default = get_bands("bgrn")
    assert parse_bands(["B8A", "b4"], default) == get_bands("sentinel2", ["B8A", "B04"])
    assert find_bands(["red", "green"], "uint8").sensor == "rgb"
    assert find_bands(["red", "green"], "uint16").sensor == "bgrn"
    with pytest.raises(UnknownNameError, match="unknown band 'B13'"):
        parse_bands(["B04", "B13"], default)
    with pytest.raises(UnknownNameError, match="unknown band 'B04, nir'"):  # each is known, but of no one sensor
        parse_bands(["B04", "nir"], default)
