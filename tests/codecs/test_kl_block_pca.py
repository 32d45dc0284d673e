"""The start at block PCA: views of blocks, and synthesis from a block's neighbourhood."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from rsdistill.codecs import kl as klt
from rsdistill.codecs.kl import fit_klt, fit_synthesis, sample_blocks


def _chips(count, smooth, side=24, seed=0):
    field = np.random.default_rng(seed).normal(0, 1, (count, 2, side, side))
    return torch.from_numpy(gaussian_filter(field, (0, 0, smooth, smooth)).astype(np.float32))


def _errors(train, test, components=3, patch=4):
    """Mean square error of block PCA alone, and with neighbours."""
    blocks, wanted = F.pixel_unshuffle(train, patch), F.pixel_unshuffle(test, patch)
    mean, basis, _ = fit_klt(blocks, components, 0)
    synthesis = torch.from_numpy(fit_synthesis(blocks, mean, basis))
    centred = wanted - torch.from_numpy(mean)[:, None, None]
    latents = torch.einsum("kd,ndhw->nkhw", torch.from_numpy(basis), centred)
    alone = torch.einsum("kd,nkhw->ndhw", torch.from_numpy(basis), latents)
    together = F.conv2d(latents, synthesis, padding=1)
    return float((alone - centred).square().mean()), float((together - centred).square().mean()), synthesis, basis


def test_neighbours_lower_the_error_of_smooth_ground_on_unseen_chips():
    alone, together, *_ = _errors(_chips(60, 2.0), _chips(20, 2.0, seed=1))
    assert together < 0.8 * alone


def test_blocks_that_know_nothing_of_each_other_are_rebuilt_from_their_own_components():
    alone, together, synthesis, basis = _errors(_chips(400, 0.0), _chips(50, 0.0, seed=1))
    torch.testing.assert_close(synthesis[:, :, 1, 1], torch.from_numpy(basis.T), atol=0.05, rtol=0)
    assert synthesis[:, :, 0].abs().max() < 0.1 and together < 1.01 * alone


def test_blocks_with_gaps_are_not_asked_for():
    chips = _chips(60, 2.0)
    blocks = F.pixel_unshuffle(chips, 4)
    mean, basis, _ = fit_klt(blocks, 3, 0)
    spoilt = torch.cat([blocks, torch.full_like(blocks[:5], torch.nan)])
    assert all(np.array_equal(a, b) for a, b in zip(fit_klt(spoilt, 3, 0)[:2], (mean, basis), strict=True))
    np.testing.assert_allclose(fit_synthesis(spoilt, mean, basis), fit_synthesis(blocks, mean, basis), atol=1e-6)


def test_views_are_added_up_to_a_bound(monkeypatch):
    chips = _chips(6, 1.0, side=8)
    assert torch.equal(sample_blocks(chips, 4)[:6], F.pixel_unshuffle(chips, 4))
    assert len(sample_blocks(chips, 4)) == 48
    monkeypatch.setattr(klt, "MAX_BLOCKS", 50)
    assert len(sample_blocks(chips, 4)) == 12
    monkeypatch.setattr(klt, "MAX_BLOCKS", 12)
    assert torch.equal(sample_blocks(chips, 4), F.pixel_unshuffle(chips[:3], 4))
