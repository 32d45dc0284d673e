"""Losses: the angle is torchmetrics' own, gradients are finite, missing pixels count nowhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image import SpectralAngleMapper

from rsdistill.bands import BandSet, get_bands
from rsdistill.codecs.losses import (
    LossOptions,
    mean_error,
    reconstruction_loss,
    spectral_angle,
    to_reflectance,
)
from rsdistill.imaging.normalisation import RangeNormalisation

BGRN = get_bands("bgrn")
UNIT = RangeNormalisation((0.0,) * 4, (10000.0,) * 4)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.rand(3, 4, 8, 8, generator=generator) * 0.5 + 0.05
    return wanted + 0.05 * torch.rand(wanted.shape, generator=generator), wanted


def test_the_angle_is_that_of_torchmetrics(pair):
    reference = SpectralAngleMapper()(*pair)
    assert float(spectral_angle(*pair)) == pytest.approx(float(reference), rel=1e-5)


def test_the_angle_ignores_brightness_and_knows_right_angles(pair):
    assert float(spectral_angle(3.0 * pair[1], pair[1])) == pytest.approx(0.0, abs=1e-6)
    first, second = (torch.zeros(1, 4, 1, 1).index_fill(1, torch.tensor(i), 0.3) for i in (0, 2))
    assert float(spectral_angle(first, second)) == pytest.approx(np.pi / 2)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_gradients_are_finite_at_zero_and_at_a_perfect_match(pair, factor):
    for kind in ("l1", "rms"):
        rebuilt = (factor * pair[1]).requires_grad_()
        terms = reconstruction_loss(rebuilt, pair[1] * factor, UNIT, BGRN, LossOptions(kind, 0.5))
        terms.total.backward()
        assert torch.isfinite(terms.total) and torch.isfinite(rebuilt.grad).all()


def test_gradients_of_the_angle_are_its_slope():
    wanted = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64).reshape(1, 4, 1, 1)
    rebuilt = torch.tensor([0.2, 0.3, 0.3, 0.1], dtype=torch.float64).reshape(1, 4, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spectral_angle(x, wanted), rebuilt)


def test_dark_pixels_and_pixels_without_a_band_have_no_angle(pair):
    rebuilt, wanted = (image.clone() for image in pair)
    clean = float(spectral_angle(rebuilt[1:], wanted[1:]))
    wanted[0, :, :4] = 0.0
    valid = torch.ones_like(wanted, dtype=torch.bool)
    valid[0, 2, 4:] = False
    assert float(spectral_angle(rebuilt, wanted, valid)) == pytest.approx(clean, rel=1e-5)
    nothing = torch.zeros_like(wanted).requires_grad_()
    angle = spectral_angle(nothing, wanted)
    angle.backward()
    assert angle.item() == 0.0 and torch.all(nothing.grad == 0.0)


def test_the_loss_adds_error_and_angle_in_reflectance(pair):
    rebuilt, wanted = (image * 2.0 - 1.0 for image in pair)
    terms = reconstruction_loss(rebuilt, wanted, UNIT, BGRN, LossOptions("l1", 0.5))
    assert terms.error.item() == pytest.approx(float((rebuilt - wanted).abs().mean()), rel=1e-5)
    assert float(terms.angle) == pytest.approx(float(spectral_angle(*pair)), rel=1e-4)
    assert float(terms.total) == pytest.approx(float(terms.error + 0.5 * terms.angle))
    plain = reconstruction_loss(rebuilt, wanted, UNIT, BGRN, LossOptions("l1", 0.0))
    assert float(plain.total) == float(plain.error) and float(plain.angle) == 0.0


@pytest.mark.parametrize("kind", ["l1", "rms"])
def test_missing_pixels_count_nowhere(pair, kind):
    rebuilt, wanted = (image.clone() for image in pair)
    options = LossOptions(kind, 0.5)
    clean = reconstruction_loss(rebuilt[:, :, :4], wanted[:, :, :4], UNIT, BGRN, options)
    wanted[:, :, 4:], rebuilt[:, :, 4:] = torch.nan, 9.0
    rebuilt.requires_grad_()
    spoilt = reconstruction_loss(rebuilt, wanted, UNIT, BGRN, options)
    assert spoilt.total.item() == pytest.approx(float(clean.total), rel=1e-5)
    spoilt.total.backward()
    assert torch.all(rebuilt.grad[:, :, 4:] == 0.0) and rebuilt.grad[:, :, :4].abs().max() > 0.0


def test_rms_is_the_root_of_each_chip(pair):
    rebuilt, wanted = pair
    valid = torch.ones_like(wanted, dtype=torch.bool)
    roots = (rebuilt - wanted).square().mean((1, 2, 3)).sqrt()
    assert float(mean_error(rebuilt, wanted, valid, "rms")) == pytest.approx(float(roots.mean()), rel=1e-5)


def test_reflectance_uses_scale_and_offset():
    assert torch.allclose(to_reflectance(torch.tensor([0.0, 5000.0]), BGRN), torch.tensor([0.0, 0.5]))
    shifted = BandSet(BGRN.bands, valid_range=(0.0, 11000.0), scale=1e-4, offset=-0.1)
    assert torch.allclose(to_reflectance(torch.tensor([0.0, 11000.0]), shifted), torch.tensor([0.0, 1.0]))
    assert torch.allclose(to_reflectance(torch.tensor(51.0), get_bands("rgb")), torch.tensor(0.2))
