"""One chip: what is read, what is refused, and how it is resampled."""

import numpy as np
import pytest
from helpers.fake_scenes import noise, write_photo, write_raster
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from rsdistill.bands import get_bands
from rsdistill.datasets.reading import RawChip, read_file, read_photo, to_bands, to_size
from rsdistill.errors import BandError, ChipError

RGB, S2 = get_bands("rgb"), get_bands("sentinel2", ["B02", "B03", "B04"])


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".png", ".TIF"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_lossless_files_come_back_whole(tmp_path, suffix, dtype):
    pixels = noise(0, 3, 9, dtype)
    write_raster(tmp_path / f"chip{suffix}", pixels)
    raw = read_file(tmp_path / f"chip{suffix}")
    np.testing.assert_array_equal(raw.pixels, pixels)
    assert raw.gsd is None


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    write_photo(tmp_path / "chip.JPG", noise(0, 3, 24))
    expected = np.asarray(Image.open(tmp_path / "chip.JPG")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_file(tmp_path / "chip.JPG").pixels, expected)


def test_georeference_tells_metres(tmp_path):
    write_raster(tmp_path / "chip.tif", noise(0), gsd=2.5)
    assert read_file(tmp_path / "chip.tif").gsd == 2.5


@pytest.mark.parametrize("name", ["chip.tif", "chip.png", "deep.png", "chip.jpg"])
@pytest.mark.parametrize("keep", [0, 0.1, 0.3, 0.9])
def test_truncated_files_are_named(tmp_path, name, keep):
    path = tmp_path / name
    if path.suffix == ".jpg":
        write_photo(path, noise(0, 3, 64))
    else:
        write_raster(path, noise(0, 3, 64, "uint16" if "deep" in name else "uint8"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ChipError, match=f"{name} (cannot be read|is empty)"):
        read_file(path)


def test_missing_garbage_palette_and_cmyk_files_are_named(tmp_path):
    with pytest.raises(ChipError, match="gone.tif cannot be read"):
        read_file(tmp_path / "gone.tif")
    for name in ("text.tif", "text.jpg"):
        (tmp_path / name).write_text("no image at all")
        with pytest.raises(ChipError, match=f"{name} cannot be read"):
            read_file(tmp_path / name)
    Image.fromarray(noise(0)[0]).convert("P").save(tmp_path / "palette.png")
    with pytest.raises(ChipError, match="palette.png is of mode P"):
        read_file(tmp_path / "palette.png")
    Image.fromarray(noise(0)[0]).convert("P").save(tmp_path / "palette.tif")
    with pytest.raises(ChipError, match="palette.tif has a colour table"):
        read_file(tmp_path / "palette.tif")
    Image.fromarray(noise(0)[0]).convert("1").save(tmp_path / "bits.tif")
    with pytest.raises(ChipError, match="bits.tif is of mode 1"):
        read_photo(tmp_path / "bits.tif")


def test_grey_rgba_and_16_bit_among_rgb_are_refused():
    with pytest.raises(ChipError, match=r"a.png has 1 band\(s\), but this dataset has 3"):
        to_bands(RawChip(noise(0, 1)), RGB, RGB, "a.png")
    with pytest.raises(ChipError, match=r"a.png has 4 band\(s\)"):
        to_bands(RawChip(noise(0, 4)), RGB, RGB, "a.png")
    with pytest.raises(ChipError, match="a.png is of type uint16, but sensor 'rgb' of uint8"):
        to_bands(RawChip(noise(0, 3, dtype="uint16")), RGB, RGB, "a.png")


def test_described_bands_go_by_name():
    planes = noise(0, 4, dtype="uint16")
    raw = RawChip(planes, ("B4, central wavelength 665 nm", "cirrus", "b02", "Green"))
    np.testing.assert_array_equal(to_bands(raw, S2, S2, "a.tif"), planes[[2, 3, 0]])


def test_descriptions_that_say_nothing_leave_the_order():
    planes = noise(0, 3, dtype="uint16")
    for said in ((None,) * 3, ("Band 1", "band_2", "3"), ("B02", None, "")):
        chip = to_bands(RawChip(planes, said), S2, S2.select(["B04", "B02"]), "a.tif")
        np.testing.assert_array_equal(chip, planes[[2, 0]])


@pytest.mark.parametrize(
    "said", [("B02", "B03", "B08"), ("B02", "B02", "B03"), ("B03", None, None), ("thermal", None, None)]
)
def test_contradicting_descriptions_are_refused(said):
    with pytest.raises(BandError, match=r"a\.tif describes its band"):
        to_bands(RawChip(noise(0, 3, dtype="uint16"), said), S2, S2, "a.tif")


def test_missing_pixels_get_the_nodata_value_of_the_bands():
    pixels = noise(0, 3, 4, "uint16")
    pixels[0, 1, 2] = 9999
    chip = to_bands(RawChip(pixels, nodata=9999), S2, S2, "a.tif")
    assert chip[0, 1, 2] == 0
    assert (chip == 0).sum() == (pixels == 9999).sum()


def test_nan_is_filled_or_refused():
    values = np.ones((3, 4, 4), np.float32)
    values[1, 2, 3] = np.nan
    bands = get_bands("sentinel2", ["B02", "B03", "B04"]).to_dict() | {"dtype": "float32", "nodata": -1.0}
    filled = to_bands(RawChip(values), type(S2).from_dict(bands), type(S2).from_dict(bands), "a.tif")
    assert filled[1, 2, 3] == -1
    assert np.isfinite(filled).all()
    without = type(S2).from_dict(bands | {"nodata": None})
    with pytest.raises(ChipError, match=r"a.tif has 1 pixel value\(s\) that are NaN or nodata"):
        to_bands(RawChip(values), without, without, "a.tif")


def test_chips_without_any_measurement_are_refused():
    with pytest.raises(ChipError, match="a.tif holds no measurement"):
        to_bands(RawChip(np.zeros((3, 4, 4), np.uint16)), S2, S2, "a.tif")


@given(
    arrays(np.uint16, st.tuples(st.just(2), st.integers(1, 12), st.integers(1, 12))),
    st.integers(1, 16),
)
def test_resampling_keeps_type_shape_and_range(pixels, size):
    chip = to_size(pixels, size)
    assert chip.shape == (2, size, size)
    assert chip.dtype == np.uint16
    assert chip.min() >= pixels.min()
    assert chip.max() <= pixels.max()


def test_halving_takes_an_area_into_account():
    stripes = np.tile(np.array([0, 200], np.uint8), (1, 8, 8))
    chip = to_size(stripes, 4)
    assert chip[0, :, 1:-1].min() == chip[0, :, 1:-1].max() == 100


def test_odd_shapes_are_cut_to_the_centre():
    pixels = np.arange(5 * 8, dtype=np.uint8).reshape(1, 5, 8)
    np.testing.assert_array_equal(to_size(pixels, 5), pixels[:, :, 1:6])


def test_nodata_does_not_bleed():
    pixels = np.full((1, 8, 8), 1000, np.uint16)
    pixels[:, :, :3] = 0
    assert set(np.unique(to_size(pixels, 4, nodata=0))) == {0, 1000}
    assert len(np.unique(to_size(pixels, 4))) > 2
