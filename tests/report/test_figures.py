"""The figures of the report: what is drawn, at which values, under which stretch."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.report_samples import make_data, make_evaluation, make_row, make_tiles

from rsdistill.errors import BandError, OptionError, UnknownNameError
from rsdistill.evaluation import class_agreement, index_distance
from rsdistill.imaging.composites import stretch_limits, to_rgb
from rsdistill.report import (
    accuracy_against_leakage,
    class_spectra,
    contact_sheet,
    index_histograms,
    nearest_sheet,
    spectral_agreement,
)
from rsdistill.utils.provenance import REAL

CELL, GAP, BETWEEN = 128, 6, 34


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(scope="module")
def tiles(data):
    return make_tiles(data)


def mosaic(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def enlarged(picture):
    return picture.repeat(CELL // len(picture), axis=0).repeat(CELL // len(picture), axis=1)


def test_sheet_shows_chips_and_tiles_under_one_stretch(data, tiles):
    shown = mosaic(contact_sheet(data, tiles, columns=2))
    limits = stretch_limits(data.train.images(), data.bands)
    chips = to_rgb(data.train.images(np.array([0, 7])), data.bands, limits=limits)
    made = to_rgb(tiles.image[:2], data.bands, limits=limits)
    # First row: the first and last training chip of the class, a space, and its two tiles.
    lefts = (0, CELL + GAP, 2 * CELL + GAP + BETWEEN, 3 * CELL + 2 * GAP + BETWEEN)
    for left, picture in zip(lefts, [*chips, *made], strict=True):
        np.testing.assert_array_equal(shown[:CELL, left : left + CELL], enlarged(picture))


def test_sheet_has_a_named_row_for_each_class_asked_for(data, tiles):
    figure = contact_sheet(data, tiles, ["forest", "solar_farm"], columns=1)
    assert words(figure) == ["forest", "solar farm", "original training chips".replace(" ", "\n"), "distilled\nimages"]
    assert mosaic(figure).shape == (2 * CELL + GAP, 2 * CELL + BETWEEN, 3)


def test_false_colour_differs_and_unknown_colour_is_refused(data, tiles):
    natural, false = (mosaic(contact_sheet(data, tiles, columns=1, colour=c)) for c in ("natural", "false"))
    assert (natural != false).any()
    with pytest.raises(OptionError, match="'infrared' is unknown"):
        contact_sheet(data, tiles, colour="infrared")
    rgb = make_data("rgb")
    with pytest.raises(BandError, match="false colour needs near infrared"):
        contact_sheet(rgb, make_tiles(rgb), colour="false")


def test_sheet_without_real_chips(data, tiles):
    figure = contact_sheet(data, tiles, columns=2, show_real=False)
    assert mosaic(figure).shape[1] == 2 * CELL + GAP
    assert not any("original" in text for text in words(figure))


def test_real_pixels_are_called_so(data):
    figure = contact_sheet(data, make_tiles(data, digital_source_type=REAL), columns=5)
    assert any("real pixels" in text.replace("\n", " ") for text in words(figure))


def test_missing_images_leave_grey_cells(data, tiles):
    fewer = tiles.subset(np.arange(len(tiles)) != 1)
    shown = mosaic(contact_sheet(data, fewer, columns=2, show_real=False))
    assert np.unique(shown[:CELL, CELL + GAP :]).tolist() == [244]


def test_large_and_oblong_chips_fit_their_cell(data, tiles):
    large = replace(tiles, image=tiles.image.repeat(20, axis=2).repeat(10, axis=3))
    shown = mosaic(contact_sheet(data, large, columns=1, show_real=False))
    assert shown.shape == (3 * CELL + 2 * GAP, CELL, 3)
    assert (shown[:CELL, 0] == 255).all() and (shown[:CELL, CELL // 2] != 255).any()


def test_sets_with_fewer_classes_keep_their_names(data, tiles):
    """A policy may leave classes out: labels then point elsewhere than in the dataset."""
    forest = tiles.subset(tiles.label == 2)
    alone = replace(forest, label=np.zeros(2, np.int64), classes=forest.classes[2:])
    assert words(contact_sheet(data, alone))[0] == "forest"
    assert [axes.get_title() for axes in class_spectra(data, alone).axes] == ["forest"]


def test_faults_of_the_caller_are_named(data, tiles):
    with pytest.raises(UnknownNameError, match="did you mean 'river'"):
        contact_sheet(data, tiles, ["rivers"])
    with pytest.raises(OptionError, match="columns is 0"):
        contact_sheet(data, tiles, columns=0)
    with pytest.raises(OptionError, match="no class to show"):
        contact_sheet(data, tiles, [])


def test_pairs_show_each_tile_above_its_nearest_chip(data, tiles):
    shown = mosaic(nearest_sheet(data, tiles, [3, 1, 8, 9, 16, 17]))
    limits = stretch_limits(data.train.images(), data.bands)
    chip = to_rgb(data.train.images(np.array([3])), data.bands, limits=limits)[0]
    np.testing.assert_array_equal(shown[CELL + GAP :, :CELL], enlarged(chip))
    with pytest.raises(OptionError, match="one position each"):
        nearest_sheet(data, tiles, [0])
    with pytest.raises(OptionError, match="positions from 0 to 23"):
        nearest_sheet(data, tiles, [0, 1, 8, 9, 16, 24])


def test_spectra_are_the_means_over_wavelength(data, tiles):
    figure = class_spectra(data, tiles)
    assert [axes.get_title() for axes in figure.axes] == ["river", "solar farm", "forest"]
    real, made = figure.axes[1].lines
    np.testing.assert_allclose(real.get_xdata(), data.bands.centres)
    # Reflectance 0.2 in the first band of the second class, rising to 0.4 in the last.
    np.testing.assert_allclose(real.get_ydata(), 0.2 * np.linspace(1, 2, 4), atol=1e-3)
    np.testing.assert_allclose(made.get_ydata(), real.get_ydata(), atol=1e-3)
    assert figure.get_supxlabel() == "wavelength, µm" and figure.get_supylabel() == "reflectance"


def test_spectra_leave_out_invalid_pixels(data, tiles):
    holes = replace(tiles, image=np.where(np.arange(16) < 8, 0, tiles.image))  # 0 is nodata of this sensor
    made = class_spectra(data, holes).axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(made, 0.1 * np.linspace(1, 2, 4), atol=5e-3)


def test_three_bands_are_points_in_order_of_wavelength():
    data = make_data("rgb")
    figure = class_spectra(data, make_tiles(data), ["forest"])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["blue", "green", "red"]
    assert figure.get_supxlabel() == "band" and figure.get_supylabel() == "pixel value"
    # Made with red lowest: 0.3, 0.45 and 0.6 of 255 for red, green and blue.
    made = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_allclose(made.get_ydata(), 255 * np.array([0.6, 0.45, 0.3]), rtol=0.02)


def test_histograms_show_each_class_with_its_distance(data, tiles):
    figure = index_histograms(data, tiles, classes=["forest", "river"])
    assert [axes.get_title() for axes in figure.axes] == ["forest", "river"]
    assert figure.get_supxlabel().startswith("NDVI")
    shown = figure.axes[0].texts[0].get_text()
    forest = data.train.labels == 2
    wanted = index_distance(
        "ndvi", data.train.images(np.flatnonzero(forest)), tiles.image[tiles.label == 2], data.bands
    )
    assert shown == f"{wanted:.3f}"
    # Reflectances 0.6 in near infrared and 0.5 in red: the peak of both lies at 1 / 11.
    for patch in figure.axes[0].patches:
        outline = patch.get_xy()
        assert outline[outline[:, 1].argmax(), 0] == pytest.approx(1 / 11, abs=0.03)
    assert [text.get_text() for text in figure.legends[0].texts] == ["original chips", "distilled"]


def test_histograms_need_the_bands_of_the_index():
    data = make_data("rgb")
    with pytest.raises(BandError, match="NDVI needs a near infrared band"):
        index_histograms(data, make_tiles(data))


def test_histogram_of_a_class_without_a_measurement_is_empty(data, tiles):
    image = np.where((tiles.label == 0)[:, None, None, None], 0, tiles.image)
    river = index_histograms(data, replace(tiles, image=image)).axes[0]
    assert len(river.patches) == 1 and not river.texts


def test_agreement_is_drawn_as_measured(data, tiles):
    figure = spectral_agreement(data, tiles)
    correlation, distance, ndvi, ndwi = figure.axes
    assert [label.get_text() for label in correlation.get_yticklabels()] == ["river", "solar farm", "forest"]
    rows = class_agreement(tiles, data)
    for axes, values in (
        (correlation, [row.correlation for row in rows]),
        (distance, [row.distance for row in rows]),
        (ndvi, [row.indices["ndvi"] for row in rows]),
        (ndwi, [row.indices["ndwi"] for row in rows]),
    ):
        np.testing.assert_allclose(axes.lines[0].get_xdata(), values)
    assert "reflectance" in distance.get_xlabel() and "NDWI" in ndwi.get_xlabel()


def drawn(axes):
    """Position, value and bar ends of each mark."""
    found = {}
    for container in axes.containers:
        value, position = (float(part[0]) for part in container.lines[0].get_data())
        ends = [float(cap.get_xdata()[0]) for cap in container.lines[1]]
        found[position] = (value, *ends)
    return found


def test_accuracy_and_leakage_stand_side_by_side():
    accuracy, leakage = accuracy_against_leakage(make_evaluation()).axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["dpd, IPC 2", "random, IPC 2"]
    np.testing.assert_allclose(drawn(accuracy)[0.0], (61, 59, 63))
    np.testing.assert_allclose(drawn(accuracy)[1.0], (58, 56, 60))
    np.testing.assert_allclose(drawn(leakage)[0.0], (55, 43, 67))
    np.testing.assert_allclose(drawn(leakage)[1.0], (100, 94, 100))
    references = [
        line.get_xdata()[0] for axes in (accuracy, leakage) for line in axes.lines if len(line.get_xdata()) == 2
    ]
    assert references == [90.0, 50]


def test_tracks_and_single_students():
    rows = (make_row("dpd", 0.6, (0.5, 0.4, 0.6), std=None), make_row("dpd", 0.7, (0.5, 0.4, 0.6), label_type="soft"))
    accuracy, _ = accuracy_against_leakage(replace(make_evaluation(), rows=rows)).axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == [
        "dpd, IPC 2, hard labels",
        "dpd, IPC 2, soft labels",
    ]
    assert len(drawn(accuracy)[0.0]) == 1


def test_nothing_to_compare_is_refused():
    only_full = replace(make_evaluation(), rows=make_evaluation().rows[2:])
    with pytest.raises(OptionError, match="no row with leakage"):
        accuracy_against_leakage(only_full)
