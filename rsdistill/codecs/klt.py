"""Start of a one-level KL autoencoder at the block-wise Karhunen-Loève transform (block PCA).

From random weights an autoencoder needs thousands of steps to become as good as block PCA, which
takes a second to compute. Every part of ``diffusers.AutoencoderKL`` can be set so that encoder and
decoder begin as that linear transform: residual branches start at zero; each component is carried
by a channel and its negative, because ``silu(x) − silu(−x) = x``; and channels of constant value
dominate the variance that group normalisation divides by, so that it begins as a fixed scale.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import nn

_MAX_BLOCKS = 40_000
# Value of the constant channels, in units of the components' standard deviations.
_CONSTANT = 8.0
# Random part of the weights that the transform leaves free.
_JITTER = 0.02


def fit_klt(blocks: torch.Tensor, components: int, seed: int) -> tuple[NDArray[np.float32], ...]:
    """Principal components of image blocks.

    Args:
        blocks: Blocks as channels, (N, D, h, w); those with a NaN are left out where enough others remain.
        components: Number K of components.
        seed: Seed of the choice of blocks and of the decomposition.

    Returns:
        Mean (D,), components (K, D) and their standard deviations (K,).
    """
    rows = blocks.permute(0, 2, 3, 1).reshape(-1, blocks.shape[1]).numpy()
    whole = rows[np.isfinite(rows).all(1)]
    rows = whole if len(whole) > components else np.nan_to_num(rows, nan=-1.0)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:_MAX_BLOCKS]
    found = PCA(components, random_state=seed).fit(rows[chosen])
    deviations = np.sqrt(np.maximum(found.explained_variance_, 1e-8))
    return found.mean_.astype(np.float32), found.components_.astype(np.float32), deviations.astype(np.float32)


@torch.no_grad()
def start_at_klt(
    vae: AutoencoderKL,
    mean: NDArray[np.float32],
    components: NDArray[np.float32],
    deviations: NDArray[np.float32],
) -> None:
    """Set a one-level autoencoder with one normalisation group to the transform, in place.

    Latents are the components divided by the square root of their deviation: halfway between the
    pixels' own scale, which drowns texture, and whitening, which lifts noise.

    Args:
        vae: Autoencoder with one resolution, at least ``2 K + 2`` channels wide.
        mean: Mean of the blocks, (D,).
        components: Components, (K, D).
        deviations: Their standard deviations, (K,).
    """
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    scale = np.sqrt(deviations)
    analysis = torch.from_numpy(components / scale[:, None])
    synthesis = torch.from_numpy(components.T * scale[None, :])
    latents = len(components)
    unit = float(np.sqrt((deviations / scale) ** 2).max())
    centre = -(analysis @ torch.from_numpy(mean))
    _split(vae.encoder.conv_in, analysis, centre, unit)
    _join(vae.encoder.conv_out, vae.encoder.conv_in, torch.eye(latents), torch.zeros(latents), unit)
    # Small posterior variance: the second half of the outputs is its logarithm.
    vae.encoder.conv_out.bias[latents:] = -6.0
    for between in (vae.quant_conv, vae.post_quant_conv):
        if between is not None:
            size = between.weight.shape[0]
            between.weight.copy_(torch.eye(size)[:, :, None, None])
            nn.init.zeros_(between.bias)
    _split(vae.decoder.conv_in, torch.eye(latents), torch.zeros(latents), unit)
    _join(vae.decoder.conv_out, vae.decoder.conv_in, synthesis, torch.from_numpy(mean), unit)


def _split(convolution: nn.Conv2d, rows: torch.Tensor, offsets: torch.Tensor, unit: float) -> None:
    """First channels carry ``rows @ x + offsets``, the next its negative, the others constants of either sign."""
    count, bias = len(rows), convolution.bias
    assert bias is not None
    nn.init.normal_(convolution.weight, std=_JITTER / np.sqrt(convolution.weight[0].numel()))
    convolution.weight[: 2 * count] = 0.0
    convolution.weight[:count, :, 1, 1] = rows
    convolution.weight[count : 2 * count, :, 1, 1] = -rows
    bias[:count], bias[count : 2 * count] = offsets, -offsets
    signs = torch.arange(len(bias) - 2 * count) % 2 * 2.0 - 1.0
    bias[2 * count :] = _CONSTANT * unit * signs


def _join(convolution: nn.Conv2d, split: nn.Conv2d, rows: torch.Tensor, offsets: torch.Tensor, unit: float) -> None:
    """Output ``rows @ x + offsets`` from what :func:`_split` carried through normalisation and SiLU."""
    count, width, bias = rows.shape[1], split.out_channels, convolution.bias
    assert bias is not None
    constants = width - 2 * count
    # Mean square of all channels: the constants' own, plus that of components of about unit size.
    deviation = unit * float(np.sqrt((constants * _CONSTANT**2 + 2 * count * 0.3) / width))
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(bias)
    convolution.weight[: len(rows), :count, 1, 1] = rows * deviation
    convolution.weight[: len(rows), count : 2 * count, 1, 1] = -rows * deviation
    bias[: len(offsets)] = offsets
