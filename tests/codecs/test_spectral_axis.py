"""Parts of codec ``spectral``: the axis of wavelengths, the Gaussian model, the generated layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from rsdistill.bands import Band, BandSet, get_bands
from rsdistill.codecs.spectral_axis import FEATURES, BlockPrior, SpectralAxis

S2 = get_bands("sentinel2")
AXIS = SpectralAxis.of(S2)


def one(centre, width=None):
    return BandSet((Band("x", centre, width),))


def test_bands_of_the_fit_are_themselves():
    np.testing.assert_allclose(AXIS.weights(S2), np.eye(13), atol=1e-12)


@given(st.floats(0.44, 2.2), st.floats(0.001, 0.5))
@settings(max_examples=80, deadline=None)
def test_weights_are_shares(centre, width):
    weights = AXIS.weights(one(centre, width))
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1.0)


def test_weights_are_linear_between_bands_and_spread_with_width():
    middle = 0.5 * (S2.bands[2].centre + S2.bands[3].centre)
    narrow = AXIS.weights(one(middle, 0.01))[0]
    assert narrow[2:4] == pytest.approx([0.5, 0.5])
    broad = AXIS.weights(one(0.56, 0.25))[0]
    assert (broad[:5] > 0.02).all() and broad[5:].max() == 0


def test_order_of_the_fit_does_not_matter():
    order = np.random.default_rng(1).permutation(13)
    other = SpectralAxis.of(replace(S2, bands=tuple(S2.bands[i] for i in order)))
    for band in (one(0.6, 0.02), one(0.84, 0.11), one(1.9)):
        np.testing.assert_allclose(other.weights(band), AXIS.weights(band)[:, order], atol=1e-12)
        torch.testing.assert_close(other.features(band), AXIS.features(band))


def test_features_tell_wavelength_and_width():
    features = AXIS.features(S2)
    assert features.shape == (13, FEATURES) and features.abs().max() <= 1.0
    assert not torch.allclose(AXIS.features(one(0.84, 0.1)), AXIS.features(one(0.84, 0.02)), atol=0.05)
    assert torch.equal(AXIS.features(one(0.84)), AXIS.features(one(0.84, 0.02)))


@pytest.fixture(scope="module")
def blocks():
    """Blocks of 3 bands x 4 pixels that vary in few ways."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(12, 5, generator=generator)
    values = torch.randn(400, 5, 6, 6, generator=generator)
    return torch.einsum("dk,nkhw->ndhw", factors, values) + 0.05 * torch.randn(400, 12, 6, 6, generator=generator)


def turned(blocks):
    """All views of blocks of 2x2 pixels, as rows."""
    planes = blocks.permute(0, 2, 3, 1).reshape(-1, 3, 2, 2)
    views = [torch.rot90(side, turn, (2, 3)) for side in (planes, planes.flip(3)) for turn in range(4)]
    return torch.cat(views).reshape(-1, 12).numpy()


def test_all_bands_give_block_pca(blocks):
    prior = BlockPrior.fit(blocks, 3, 0)
    rows, offsets = prior.analysis(np.eye(3), 4)
    found = PCA(12).fit(turned(blocks))
    deviations = np.sqrt(found.explained_variance_[:4])
    np.testing.assert_allclose(prior.deviations(4), deviations, rtol=1e-3)
    # Components whose variances differ are the same up to sign; the space they span is in any case.
    ours = (prior.components(4).T @ prior.components(4)).round(3)
    np.testing.assert_allclose(ours, found.components_[:4].T @ found.components_[:4], atol=0.02)
    some = turned(blocks)[:50]
    latents = some @ rows.numpy().T + offsets.numpy()
    wanted = (some - prior.mean.flatten().numpy()) @ prior.components(4).T / prior.deviations(4)
    np.testing.assert_allclose(latents, wanted, rtol=0.02, atol=0.02)


def test_missing_bands_give_the_regression_of_the_latents(blocks):
    """The conditional expectation is what least squares over many blocks finds."""
    prior = BlockPrior.fit(blocks, 3, 0)
    rows, offsets = prior.analysis(np.eye(3)[[2, 0]], 4)
    some = turned(blocks)
    seen = some.reshape(-1, 3, 4)[:, [2, 0]].reshape(-1, 8)
    latents = (some - prior.mean.flatten().numpy()) @ prior.components(4).T / prior.deviations(4)
    design = np.c_[seen, np.ones(len(seen))]
    wanted = design @ np.linalg.lstsq(design, latents, rcond=None)[0]
    np.testing.assert_allclose(seen @ rows.numpy().T + offsets.numpy(), wanted, atol=0.05)


def test_a_band_that_is_guessed_counts_less(blocks):
    prior = BlockPrior.fit(blocks, 3, 0)
    assert prior.interpolation_variance(np.eye(3)) == pytest.approx([0.0] * 3, abs=1e-5)
    assert prior.interpolation_variance(np.array([[0.5, 0.5, 0.0]]))[0] > 0.05


def test_blocks_without_data_do_not_count(blocks):
    spoilt = blocks.clone()
    spoilt[::7, 3, 2, 2] = torch.nan
    clean, other = (BlockPrior.fit(values, 3, 0) for values in (blocks, spoilt))
    np.testing.assert_allclose(other.deviations(4), clean.deviations(4), rtol=0.05)
