"""Small copies of chips and their normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.planted_scenes import BANDS, noise, noise_data
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdistill.datasets.real_chips import RealChips, read_chips
from rsdistill.errors import DatasetError
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import blocks, resize, shrink, spread


def test_normalised_bands_have_mean_zero_and_spread_one():
    images = torch.from_numpy(noise(200).astype(np.float32)) * torch.tensor([1.0, 10.0, 0.1, 5.0])[:, None, None]
    found = StandardNormalisation.of(images)(images)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_one_dead_pixel_moves_nothing():
    images = torch.from_numpy(noise(100).astype(np.float32))
    clean = StandardNormalisation.of(images)
    broken = images.clone()
    broken[0, 0, 0, 0] = 1e9
    found = StandardNormalisation.of(broken)
    torch.testing.assert_close(found.std, clean.std, rtol=1e-3, atol=0)
    assert found(broken).abs().max() < 3


def test_a_constant_band_and_invalid_pixels_become_zero():
    images = torch.from_numpy(noise(20).astype(np.float32))
    images[:, 1] = 7.0
    images[3, 2, 4, 4] = torch.nan
    found = StandardNormalisation.of(images)(images)
    assert (found[:, 1] == 0).all() and found[3, 2, 4, 4] == 0 and torch.isfinite(found).all()


def test_a_band_without_valid_pixels_is_refused():
    images = torch.from_numpy(noise(5).astype(np.float32))
    images[:, 3] = torch.nan
    with pytest.raises(DatasetError, match="band number 3"):
        StandardNormalisation.of(images)
    with pytest.raises(DatasetError, match="band 'nir'"):
        StandardNormalisation.of(images, BANDS)


def test_cells_are_means_of_their_pixels():
    images = noise(2, side=8)
    wanted = images.reshape(2, 4, 4, 2, 4, 2).mean((3, 5))
    np.testing.assert_allclose(shrink(images, BANDS, 4).numpy(), wanted, rtol=1e-5)


def test_nodata_is_left_out_of_the_means():
    images = np.full((1, 4, 8, 8), 500, np.uint16)
    images[0, :, 0, 0] = 0  # nodata of these bands
    images[0, 2, 4:, 4:] = 0
    found = shrink(images, BANDS, 4)
    assert torch.isnan(found[0, 2, 2:, 2:]).all()
    found[0, 2, 2:, 2:] = 500
    torch.testing.assert_close(found, torch.full((1, 4, 4, 4), 500.0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 1000))
def test_resizing_commutes_with_turning(side, size, turns, seed):
    # Else a turned copy would not be found at the small size.
    images = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 2, side, side)).astype(np.float32))
    turned = torch.rot90(resize(images, size), turns, (2, 3))
    torch.testing.assert_close(resize(torch.rot90(images, turns, (2, 3)), size), turned, rtol=1e-4, atol=1e-5)


def test_views_are_read_once_each_whatever_their_size():
    data = noise_data(train=150, val=0, test=70)
    real = RealChips.read(data, 4)
    assert data.source.reads == 220
    assert real.train.images.shape == (150, 4, 4, 4) and len(real.val) == 0
    torch.testing.assert_close(real.test.images, shrink(data.test.images(), BANDS, 4))
    assert real.held_out is real.test
    np.testing.assert_array_equal(real.test.labels, data.test.labels)


def test_native_size_keeps_the_pixels():
    data = noise_data()
    np.testing.assert_array_equal(read_chips(data.test, BANDS, None).images.numpy(), data.test.images())


@given(st.integers(1, 500), st.integers(1, 100))
def test_blocks_and_spread_cover_the_range(count, most):
    np.testing.assert_array_equal(np.concatenate(list(blocks(count, most))), np.arange(count))
    chosen = spread(count, most)
    assert len(chosen) == min(count, most) and chosen[0] == 0 and (most == 1 or chosen[-1] == count - 1)
