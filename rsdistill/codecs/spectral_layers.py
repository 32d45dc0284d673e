"""First and last layer of an autoencoder, generated from the wavelengths and widths of bands.

What block PCA knows of the bands gives a linear start for any of them (see ``spectral_prior``); a small
network over Fourier features of wavelength and width adds what training finds beyond it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from rsdistill.bands import BandSet
from rsdistill.codecs.kl import fit_synthesis, start_at_klt
from rsdistill.codecs.spectral_axis import FEATURES, BlockPrior, SpectralAxis

_HIDDEN = 64
# Filters that the network mixes: as many as a sensor has kinds of bands, not as it has bands.
_BASIS = 16

Layer = tuple[torch.Tensor, torch.Tensor]


class GeneratedLayers(nn.Module):
    """Weights of ``conv_in`` and ``conv_out`` for any bands within an axis.

    Args:
        axis: Wavelengths of the fit's A bands.
        prior: Model of their blocks of P pixels; A, P and its number of factors fix the sizes.
        width: Channels of the autoencoder.
        latents: Channels of its latents.
    """

    def __init__(self, axis: SpectralAxis, prior: BlockPrior, width: int, latents: int) -> None:
        super().__init__()
        self.axis, self.latents, self.noise = axis, latents, prior.noise
        bands, pixels = prior.mean.shape
        self.mean: torch.Tensor
        self.factors: torch.Tensor
        self.register_buffer("mean", prior.mean.clone())
        self.register_buffer("factors", prior.factors.clone())
        # Bias of the first layer beyond the latents' channels, and the last layer of the fit's bands.
        self.constants = nn.Parameter(torch.zeros(width))
        self.table = nn.Parameter(torch.zeros(bands, pixels, width, 3, 3))
        self.table_bias = nn.Parameter(torch.zeros(bands, pixels))
        self.mixer = nn.Sequential(nn.Linear(FEATURES, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, 2 * _BASIS))
        self.basis_in = nn.Parameter(torch.zeros(_BASIS, width, pixels, 3, 3))
        self.basis_in_bias = nn.Parameter(torch.zeros(_BASIS, width))
        self.basis_out = nn.Parameter(torch.zeros(_BASIS, pixels, width, 3, 3))
        self.basis_out_bias = nn.Parameter(torch.zeros(_BASIS, pixels))
        self._linear: dict[BandSet, Layer] = {}

    @property
    def prior(self) -> BlockPrior:
        """The model of blocks that the layers start from."""
        return BlockPrior(self.mean, self.factors, self.noise)

    @torch.no_grad()
    def start(self, vae: AutoencoderKL, blocks: torch.Tensor) -> None:
        """Set an autoencoder for all bands of the fit, and these layers, to block PCA.

        Args:
            vae: The autoencoder.
            blocks: Blocks as channels in their places, (N, A P, h, w), to fit the synthesis on.
        """
        prior = self.prior
        mean, components = prior.mean.flatten().numpy(), prior.components(self.latents)
        start_at_klt(vae, mean, components, prior.deviations(self.latents), fit_synthesis(blocks, mean, components))
        first, last = vae.encoder.conv_in, vae.decoder.conv_out
        assert first.bias is not None and last.bias is not None
        self.constants.copy_(first.bias)
        self.constants[: 2 * self.latents] = 0.0
        self.table.copy_(last.weight.reshape(self.table.shape))
        self.table_bias.copy_(last.bias.reshape(self.table_bias.shape))

    def first(self, bands: BandSet) -> Layer:
        """Weight (W, B P, 3, 3) and bias (W,) of the layer that reads these bands.

        Raises:
            BandError: If a band has no wavelength, or one outside the axis.
        """
        weight, bias = self._expectation(bands)
        mix = self._mix(bands)[:, :_BASIS]
        # The mean over bands keeps the summand's size whatever their number.
        learnt = torch.einsum("br,rwpij->wbpij", mix / len(bands), self.basis_in).flatten(1, 2)
        return weight + learnt, bias + self.constants + mix.mean(0) @ self.basis_in_bias

    def last(self, bands: BandSet) -> Layer:
        """Weight (B P, W, 3, 3) and bias (B P,) of the layer that writes these bands.

        Raises:
            BandError: As of :meth:`first`.
        """
        weights = torch.from_numpy(self.axis.weights(bands)).to(self.table)
        mix = self._mix(bands)[:, _BASIS:]
        weight = torch.einsum("ba,apwij->bpwij", weights, self.table)
        weight = weight + torch.einsum("br,rpwij->bpwij", mix, self.basis_out)
        bias = weights @ self.table_bias + mix @ self.basis_out_bias
        return weight.flatten(0, 1), bias.flatten()

    def _mix(self, bands: BandSet) -> torch.Tensor:
        mixed: torch.Tensor = self.mixer(self.axis.features(bands).to(self.table))
        return mixed

    def _expectation(self, bands: BandSet) -> Layer:
        """The linear start of the first layer: each latent and its negative, at the centre tap."""
        if bands not in self._linear:
            rows, offsets = self.prior.analysis(self.axis.weights(bands), self.latents)
            # Halfway between the pixels' own scale and whitening, as the last layer undoes.
            scale = torch.from_numpy(np.sqrt(self.prior.deviations(self.latents)))
            self._linear[bands] = (rows * scale[:, None], offsets * scale)
        rows, offsets = (part.to(self.constants) for part in self._linear[bands])
        weight = rows.new_zeros(len(self.constants), rows.shape[1], 3, 3)
        bias = rows.new_zeros(len(self.constants))
        count = self.latents
        weight[:count, :, 1, 1], weight[count : 2 * count, :, 1, 1] = rows, -rows
        bias[:count], bias[count : 2 * count] = offsets, -offsets
        return weight, bias


class ReadBands(nn.Module):
    """Stands for ``conv_in`` during the fit: reads all bands, or those present.

    Attributes:
        present: Positions of the bands to read, None for all; the channels of others are ignored.
    """

    def __init__(self, layers: GeneratedLayers, bands: BandSet) -> None:
        super().__init__()
        self.layers, self.bands = layers, bands
        self.present: list[int] | None = None

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches of all bands (N, A P, h, w) to features (N, W, h, w)."""
        if self.present is None:
            return F.conv2d(patches, *self.layers.first(self.bands), padding=1)
        chosen = patches.unflatten(1, (len(self.bands), -1))[:, self.present].flatten(1, 2)
        subset = self.bands.select([self.bands.names[position] for position in self.present])
        return F.conv2d(chosen, *self.layers.first(subset), padding=1)


class WriteBands(nn.Module):
    """Stands for ``conv_out`` during the fit: writes all bands."""

    def __init__(self, layers: GeneratedLayers, bands: BandSet) -> None:
        super().__init__()
        self.layers, self.bands = layers, bands

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, W, h, w) to patches of all bands (N, A P, h, w)."""
        return F.conv2d(features, *self.layers.last(self.bands), padding=1)


@torch.no_grad()
def bake(vae: AutoencoderKL, layers: GeneratedLayers, bands: BandSet) -> AutoencoderKL:
    """A stock autoencoder for some bands: everything between the outer layers as it is, those generated.

    Args:
        vae: Autoencoder for any bands, on any device.
        layers: Its outer layers; moved to the CPU.
        bands: Bands to read and write.

    Raises:
        BandError: If a band has no wavelength, or one outside the axis.
    """
    layers.cpu().eval().requires_grad_(False)
    first, last = layers.first(bands), layers.last(bands)
    values = first[0].shape[1]
    baked: AutoencoderKL = AutoencoderKL.from_config({**vae.config, "in_channels": values, "out_channels": values})
    outer = ("encoder.conv_in.", "decoder.conv_out.")
    weights = {name: value.cpu() for name, value in vae.state_dict().items() if not name.startswith(outer)}
    for prefix, (weight, bias) in zip(outer, (first, last), strict=True):
        weights |= {f"{prefix}weight": weight, f"{prefix}bias": bias}
    baked.load_state_dict(weights)
    return baked.eval().requires_grad_(False).to(vae.device)
