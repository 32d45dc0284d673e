"""Spectral metrics of image pairs against torchmetrics and against their own definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    error_relative_global_dimensionless_synthesis,
    peak_signal_noise_ratio,
    spectral_angle_mapper,
    structural_similarity_index_measure,
)

from rsdistill.bands import get_bands
from rsdistill.errors import BandError, OptionError
from rsdistill.evaluation import ergas, index_error, psnr_per_band, signal_range, spectral_angle, ssim_per_band

S2, RGB = get_bands("sentinel2"), get_bands("rgb")
METRICS = {
    "psnr": psnr_per_band,
    "ssim": ssim_per_band,
    "angle": spectral_angle,
    "ergas": ergas,
    "ndvi": lambda *pair: index_error("ndvi", *pair),
}


def pair(bands=S2, side=24, seed=0, count=3):
    """Chips that are smooth in space, and the same with noise."""
    random = np.random.default_rng(seed)
    waves = np.sin(np.linspace(0, 6, side))[:, None] * np.cos(np.linspace(0, 4, side))[None]
    truth = random.uniform(500, 3000, (count, len(bands), 1, 1)) * (1.5 + waves)
    return truth.astype("uint16"), np.clip(truth + random.normal(0, 150, truth.shape), 1, None)


def tensors(*images):
    """Reflectance as torchmetrics takes it, float64."""
    return [torch.from_numpy(np.asarray(image, np.float64) * S2.scale) for image in images]


def test_psnr_equals_torchmetrics_band_by_band():
    truth, guess = pair()
    t, g = tensors(truth, guess)
    wanted = [peak_signal_noise_ratio(g[:, [b]], t[:, [b]], data_range=1.0).item() for b in range(13)]
    np.testing.assert_allclose(psnr_per_band(truth, guess, S2), wanted, rtol=1e-6)


def test_ssim_equals_torchmetrics_band_by_band():
    truth, guess = pair()
    t, g = tensors(truth, guess)
    ours = {"data_range": 0.4, "return_full_image": True}
    full = [structural_similarity_index_measure(g[:, [b]], t[:, [b]], **ours)[1] for b in range(13)]
    # torchmetrics mirrors chips at their edges; the paper takes windows that lie inside.
    wanted = [image[..., 5:-5, 5:-5].mean().item() for image in full]
    np.testing.assert_allclose(ssim_per_band(truth, guess, S2, data_range=0.4), wanted, rtol=1e-6)


def test_spectral_angle_equals_torchmetrics():
    truth, guess = pair()
    t, g = tensors(truth, guess)
    wanted = np.degrees(spectral_angle_mapper(g, t).item())
    assert spectral_angle(truth, guess, S2) == pytest.approx(wanted, rel=1e-6)


def test_ergas_equals_torchmetrics():
    truth, guess = pair()
    t, g = tensors(truth, guess)
    wanted = error_relative_global_dimensionless_synthesis(g, t, ratio=1).item()
    assert ergas(truth, guess, S2) == pytest.approx(wanted, rel=1e-6)


def test_equal_chips_are_perfect():
    truth, _ = pair()
    assert np.isposinf(psnr_per_band(truth, truth, S2)).all()
    np.testing.assert_allclose(ssim_per_band(truth, truth, S2), 1)
    assert spectral_angle(truth, truth, S2) == pytest.approx(0, abs=1e-5)
    assert ergas(truth, truth, S2) == 0 and index_error("ndvi", truth, truth, S2) == 0


def test_angle_tells_colour_from_brightness():
    truth, _ = pair()
    assert spectral_angle(truth, 2.0 * truth, S2) == pytest.approx(0, abs=1e-5)
    two = S2.select(["B04", "B08"])
    red, infrared = np.zeros((1, 2, 1, 1)), np.zeros((1, 2, 1, 1))
    red[:, 0], infrared[:, 1] = 500, 2000
    floats = replace(two, nodata=None)
    assert spectral_angle(red, infrared, floats) == pytest.approx(90)
    assert spectral_angle(red, red + infrared, floats) == pytest.approx(np.degrees(np.arctan2(2000, 500)))
    # Zeros have no direction.
    assert spectral_angle(0 * red, red, floats) == 90 and spectral_angle(0 * red, 0 * red, floats) == 0


def test_index_error_is_the_mean_absolute_difference():
    two = S2.select(["B08", "B04"])
    truth = np.array([[[[3000, 1000, 0]], [[1000, 1000, 700]]]], "uint16")
    guess = np.array([[[[1000, 3000, 9]], [[1000, 1000, 9]]]])
    # NDVI 0.5 and 0 became 0 and 0.5; the third pixel is not measured.
    assert index_error("ndvi", truth, guess, two) == pytest.approx(0.5)
    # An estimate that equals the nodata value is wrong, not missing: NDVI 0.5 became -1.
    guess[0, 0, 0, 0] = 0
    assert index_error("ndvi", truth, guess, two) == pytest.approx((1.5 + 0.5) / 2)


@pytest.mark.parametrize("metric", METRICS)
def test_pixels_that_were_not_measured_do_not_count(metric):
    truth, guess = pair()
    truth[1:, :, :, :] = 0
    guess[1:] = 60000
    np.testing.assert_allclose(METRICS[metric](truth, guess, S2), METRICS[metric](truth[:1], guess[:1], S2))


@pytest.mark.parametrize("metric", METRICS)
def test_a_gap_leaves_its_surroundings_alone(metric):
    truth, guess = pair()
    whole = METRICS[metric](truth, guess, S2)
    truth[0, :, 20:, 20:] = 0
    guess[0, :, 20:, 20:] = 60000
    np.testing.assert_allclose(METRICS[metric](truth, guess, S2), whole, rtol=0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_without_a_measurement_there_is_no_figure(metric):
    truth, guess = pair()
    assert np.isnan(METRICS[metric](0 * truth, guess, S2)).all()


def test_one_band_without_measurement_leaves_the_others_their_figures():
    truth, guess = pair()
    truth[:, 4] = 0
    for metric in (psnr_per_band, ssim_per_band):
        np.testing.assert_array_equal(np.isnan(metric(truth, guess, S2)), np.arange(13) == 4)
    assert np.isfinite(ergas(truth, guess, S2)) and np.isnan(spectral_angle(truth, guess, S2))


def test_range_of_the_signal_is_reflectance_or_the_valid_range():
    assert signal_range(S2) == 1.0 and signal_range(RGB) == 255.0
    truth, guess = pair()
    raised = psnr_per_band(truth, guess, S2, data_range=10.0) - psnr_per_band(truth, guess, S2)
    np.testing.assert_allclose(raised, 20)
    for metric in (psnr_per_band, ssim_per_band):
        with pytest.raises(OptionError, match="data_range"):
            metric(truth, guess, S2, data_range=0.0)


@pytest.mark.parametrize("metric", METRICS)
def test_chips_that_do_not_pair_are_refused(metric):
    truth, guess = pair()
    with pytest.raises(OptionError, match="do not pair"):
        METRICS[metric](truth, guess[:2], S2)
    with pytest.raises(BandError, match="12 band"):
        METRICS[metric](truth[:, :12], guess[:, :12], S2)
    guess[0, 8, 0, 0] = np.nan
    with pytest.raises(OptionError, match="B8A"):
        METRICS[metric](truth, guess, S2)


def test_what_a_metric_cannot_do_without_is_said():
    truth, guess = pair()
    with pytest.raises(OptionError, match="11 x 11"):
        ssim_per_band(truth[..., :8], guess[..., :8], S2)
    with pytest.raises(BandError, match="two or more"):
        spectral_angle(truth[:, :1], guess[:, :1], S2.select(["B01"]))
    with pytest.raises(BandError, match="'B10'.*chip 1"):
        floats = truth.astype(float)
        floats[1, 10] = 0
        ergas(floats, guess, replace(S2, nodata=None))
    with pytest.raises(BandError, match="near infrared"):
        index_error("ndvi", truth[:, :3], guess[:, :3], RGB)
