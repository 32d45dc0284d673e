"""``kl``: a KL autoencoder for any number of bands, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.bands import BandSet
from rsdistill.codecs.autoencoder import AutoencoderCodec
from rsdistill.codecs.base import CODECS
from rsdistill.codecs.klt import fit_klt, fit_synthesis, sample_blocks, start_at_klt
from rsdistill.codecs.losses import LossOptions
from rsdistill.errors import CodecError, OptionError

_GROUPS = 8


@CODECS.register(
    "kl",
    summary="KL autoencoder from scratch, any band count",
    source="Kingma and Welling 2014; layout of Rombach et al. 2022",
)
class KLCodec(AutoencoderCodec):
    """A small ``diffusers.AutoencoderKL`` trained on normalised chips by a spectral loss and a KL term.

    With one resolution (``block_channels`` of one width) it starts at block PCA instead of at random
    weights, decodes each block with the help of its neighbours, and is better than block PCA before its
    first step: what to use where compute is short. With
    ``patch`` above 1 the autoencoder sees patches of pixels as channels, so images that a stock
    diffusers pipeline decodes want ``torch.nn.functional.pixel_shuffle`` after it.

    Args:
        bands: Bands to encode.
        latent_channels: Channels of the latents.
        patch: Side of the patches whose pixels become channels before the autoencoder.
        block_channels: Width of each resolution, multiples of 8; one halving between two of them.
        layers_per_block: Residual layers at each resolution.
        steps: Optimiser steps of the fit.
        batch: Chips a step.
        lr: Peak learning rate.
        loss: How reconstructions are compared with chips.
        kl_weight: Weight of the KL term, summed over the latents of a chip.
        seed: Seed of initial weights, order and augmentation.

    Raises:
        OptionError: If a width is no multiple of 8, or too small to start at block PCA.
    """

    name = "kl"

    def __init__(
        self,
        bands: BandSet,
        latent_channels: Annotated[int, Field(ge=1)] = 16,
        patch: Annotated[int, Field(ge=1)] = 1,
        block_channels: Sequence[int] = (16, 32, 64, 128),
        layers_per_block: Annotated[int, Field(ge=1)] = 1,
        steps: Annotated[int, Field(ge=1)] = 1500,
        batch: Annotated[int, Field(ge=1)] = 16,
        lr: Annotated[float, Field(gt=0)] = 2e-3,
        loss: LossOptions | None = None,
        kl_weight: Annotated[float, Field(ge=0)] = 1e-6,
        seed: int = 0,
    ) -> None:
        wrong = [width for width in block_channels if width < 1 or width % _GROUPS]
        if wrong or not block_channels:
            raise OptionError(f"codec.block_channels {list(block_channels)}: every width must be a multiple of 8")
        if len(block_channels) == 1 and block_channels[0] < 2 * latent_channels + 2:
            raise OptionError(
                f"codec.block_channels {list(block_channels)}: a single width must be above {2 * latent_channels + 1}, "
                f"twice codec.latent_channels"
            )
        self.bands, self.patch = bands, patch
        self.block_channels, self.layers_per_block = tuple(block_channels), layers_per_block
        self.steps, self.batch, self.lr, self.loss, self.kl_weight = steps, batch, lr, loss or LossOptions(), kl_weight
        self.seed = seed
        self._latent_channels = latent_channels

    @property
    def latent_channels(self) -> int:
        """Channels C of the latents."""
        return self._latent_channels

    @property
    def factor(self) -> int:
        """How many times smaller latents are than chips along each side."""
        return int(self.patch * 2 ** (len(self.block_channels) - 1))

    @property
    def _starts_at_klt(self) -> bool:
        return len(self.block_channels) == 1

    def _build(self, sample: NDArray[Any]) -> AutoencoderKL:
        depth, channels = len(self.block_channels), len(self.bands) * self.patch**2
        vae = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=self.block_channels,
            layers_per_block=self.layers_per_block,
            latent_channels=self._latent_channels,
            norm_num_groups=1 if self._starts_at_klt else _GROUPS,
            sample_size=sample.shape[-1] // self.patch,
            # At 8x8 latents attention costs time and did not lower the reconstruction error.
            mid_block_add_attention=False,
        )
        if self._starts_at_klt:
            if channels < self._latent_channels:
                raise CodecError(
                    f"codec '{self.name}' cannot start {self._latent_channels} latent channels from patches of "
                    f"{channels} values; raise codec.patch or lower codec.latent_channels"
                )
            order = np.random.default_rng(self.seed).permutation(len(sample))
            blocks = sample_blocks(self._normalised(sample[order]), self.patch)
            mean, components, deviations = fit_klt(blocks, self._latent_channels, self.seed % 2**31)
            start_at_klt(vae, mean, components, deviations, fit_synthesis(blocks, mean, components))
        return vae
