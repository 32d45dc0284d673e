"""``spectral``: one autoencoder for any bands within a range of wavelengths, with one space of latents."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file

from rsdistill.bands import BandSet, get_bands, list_sensors
from rsdistill.codecs.autoencoder import AutoencoderCodec, CodecTraining, build_autoencoder
from rsdistill.codecs.base import CODECS
from rsdistill.codecs.kl import sample_blocks
from rsdistill.codecs.losses import LossOptions
from rsdistill.codecs.spectral_axis import BlockPrior, SpectralAxis
from rsdistill.codecs.spectral_layers import GeneratedLayers, ReadBands, WriteBands, bake
from rsdistill.datasets.base import SceneData
from rsdistill.errors import BandError, CodecError, OptionError
from rsdistill.imaging.normalisation import RangeNormalisation
from rsdistill.training.trainer import TrainerOptions, step_generator

_LAYERS = "layers.safetensors"


@CODECS.register(
    "spectral",
    summary="KL autoencoder for any bands in its range of wavelengths, with one space of latents",
    source="own; generated layers after Ha et al. 2017, linear start after Tipping and Bishop 1999",
)
class SpectralCodec(AutoencoderCodec):
    """An autoencoder whose first and last layers are generated from the bands' wavelengths and widths.

    Fitted once on all bands of a sensor, it encodes any of them, and bands of other sensors within its
    range of wavelengths, into the same space of latents: see :meth:`for_bands`. It decodes any
    wavelength in that range: see :meth:`decode`.

    It starts as a Gaussian model of image blocks: block PCA where all bands are there, and the best
    linear estimate of the same components where bands are missing. Training shows it all bands and
    random subsets of them, and always asks for all bands back.

    Args:
        bands: Bands to fit on, with centre wavelengths.
        latent_channels: Channels of the latents.
        patch: Side of the patches whose pixels become channels before the autoencoder.
        width: Channels of the autoencoder, above ``2 latent_channels + 1``.
        layers_per_block: Residual layers on each side, beside the middle ones.
        full_share: Share of the steps that encode all bands; the others encode a subset of them.
        steps: Optimiser steps of the fit.
        batch: Chips a step.
        lr: Peak learning rate.
        loss: How reconstructions are compared with chips; None for the defaults.
        kl_weight: Weight of the KL term, summed over the latents of a chip.
        seed: Seed of initial weights, order, subsets and augmentation.

    Raises:
        BandError: If a band states no centre wavelength.
        OptionError: If the width is too small for the latents.
    """

    name = "spectral"

    def __init__(
        self,
        bands: BandSet,
        latent_channels: Annotated[int, Field(ge=1)] = 16,
        patch: Annotated[int, Field(ge=1)] = 8,
        width: Annotated[int, Field(ge=4)] = 128,
        layers_per_block: Annotated[int, Field(ge=1)] = 1,
        full_share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        steps: Annotated[int, Field(ge=1)] = 100,
        batch: Annotated[int, Field(ge=1)] = 16,
        lr: Annotated[float, Field(gt=0)] = 5e-5,
        loss: LossOptions | None = None,
        kl_weight: Annotated[float, Field(ge=0)] = 1e-6,
        seed: int = 0,
    ) -> None:
        if width < 2 * latent_channels + 2:
            raise OptionError(
                f"codec.width {width} must be above {2 * latent_channels + 1}, twice codec.latent_channels"
            )
        SpectralAxis.of(bands)
        self.bands, self.patch, self.width, self.layers_per_block = bands, patch, width, layers_per_block
        self.full_share, self.steps, self.batch, self.lr = full_share, steps, batch, lr
        self.loss, self.kl_weight, self.seed = loss or LossOptions(), kl_weight, seed
        self._latent_channels = latent_channels
        self.layers_: GeneratedLayers | None = None
        self.origin_: tuple[BandSet, RangeNormalisation] | None = None

    @property
    def factor(self) -> int:
        """How many times smaller latents are than chips along each side."""
        return self.patch

    def fit(self, data: SceneData, folder: str | Path | None = None, trainer: TrainerOptions | None = None) -> Self:
        """Train on ``data.train``; see :meth:`Codec.fit`.

        Raises:
            BandError: If the data has another number of bands, or a band without valid pixels.
            CodecError: If the chips' sides are no multiple of the patch, or a patch has fewer values
                than the latents have channels.
        """
        super().fit(data, folder, trainer)
        vae, normalisation = self._fitted()
        assert self.layers_ is not None
        self.vae_ = bake(vae, self.layers_, self.bands)
        self.origin_ = (self.bands, normalisation)
        return self

    def for_bands(self, bands: BandSet, chips: NDArray[Any] | None = None) -> SpectralCodec:
        """This codec for other bands: the same weights and the same space of latents.

        Args:
            bands: Bands of any sensor whose wavelengths lie in the range of the fit.
            chips: Chips (N, B, H, W) of these bands in sensor units, whose range of values is to match
                that of the fit. Best for uncalibrated sensors; needed where neither units, reflectance
                nor 8 bits tell the range.

        Returns:
            A codec that encodes and decodes these bands.

        Raises:
            BandError: If a band states no centre wavelength, or one outside the range of the fit.
            CodecError: If the codec is not fitted, or the range of values cannot be told without chips.
        """
        vae, _ = self._fitted()
        layers, own, _ = self._origin()
        other = copy.copy(self)
        other.bands = bands
        other.vae_ = bake(vae, layers, bands)
        if chips is None:
            other.normalisation_ = self._ranges(bands)
        else:
            # Percentiles of 8 bits, too, unless the fit took their whole range: like is to match like.
            counted = bands if own.dtype == "uint8" else replace(bands, dtype="float32")
            other.normalisation_ = RangeNormalisation.fit(chips, counted)
        return other

    def decode(self, latents: torch.Tensor, bands: BandSet | None = None) -> torch.Tensor:
        """Scaled latents (N, C, h, w) to chips (N, B, H, W) in sensor units.

        Args:
            latents: Latents of this codec, for whichever bands they were made.
            bands: Bands wanted; None for the codec's own. See :meth:`for_bands`.
        """
        if bands is None or bands == self.bands:
            return super().decode(latents)
        return self.for_bands(bands).decode(latents)

    def _build(self, sample: NDArray[Any]) -> AutoencoderKL:
        self._check_start()
        values, side = len(self.bands) * self.patch**2, sample.shape[-1] // self.patch
        vae = build_autoencoder(values, self.latent_channels, (self.width,), self.layers_per_block, 1, side)
        chips = self._normalised(sample[np.random.default_rng(self.seed).permutation(len(sample))])
        prior = BlockPrior.fit(F.pixel_unshuffle(chips, self.patch), len(self.bands), self.seed)
        self.layers_ = GeneratedLayers(SpectralAxis.of(self.bands), prior, self.width, self.latent_channels)
        self.layers_.start(vae, sample_blocks(chips, self.patch))
        vae.encoder.conv_in = ReadBands(self.layers_, self.bands)
        vae.decoder.conv_out = WriteBands(self.layers_, self.bands)
        return vae

    def _training(self) -> CodecTraining:
        return SpectralTraining(self)

    def save_weights(self, folder: Path) -> dict[str, Any]:
        """See :meth:`Codec.save_weights`."""
        description = super().save_weights(folder)
        layers, bands, ranges = self._origin()
        save_file({name: value.contiguous() for name, value in layers.state_dict().items()}, folder / _LAYERS)
        origin = {"bands": bands.to_dict(), "low": list(ranges.low), "high": list(ranges.high), "noise": layers.noise}
        return {**description, "origin": origin}

    @classmethod
    def load_weights(cls, folder: Path, description: dict[str, Any]) -> Self:
        """See :meth:`Codec.load_weights`."""
        codec = super().load_weights(folder, description)
        origin, weights = description["origin"], load_file(folder / _LAYERS)
        bands = BandSet.from_dict(origin["bands"])
        prior = BlockPrior(weights["mean"], weights["factors"], origin["noise"])
        layers = GeneratedLayers(SpectralAxis.of(bands), prior, codec.width, codec.latent_channels)
        layers.load_state_dict(weights)
        codec.layers_ = layers.eval().requires_grad_(False)
        codec.origin_ = (bands, RangeNormalisation(tuple(origin["low"]), tuple(origin["high"])))
        return codec

    def _origin(self) -> tuple[GeneratedLayers, BandSet, RangeNormalisation]:
        """Generated layers, and the bands and ranges that they were fitted on."""
        if self.layers_ is None or self.origin_ is None:
            raise CodecError(self._not_fitted)
        return self.layers_, *self.origin_

    def _ranges(self, bands: BandSet) -> RangeNormalisation:
        """Ranges of other bands, from those of the fit at their wavelengths."""
        layers, own, ranges = self._origin()
        weights = layers.axis.weights(bands)
        limits = [weights @ np.asarray(limit) for limit in (ranges.low, ranges.high)]
        if (own.scale, own.offset) != (bands.scale, bands.offset):
            if bands.dtype == "uint8":
                return RangeNormalisation(*((limit,) * len(bands) for limit in bands.valid_range))
            if own.scale == 1.0 or bands.scale == 1.0:
                raise CodecError(
                    f"values of sensor '{bands.sensor}' are not in the units of sensor '{own.sensor}', and not both "
                    f"state a scale to reflectance; give for_bands some chips to take their range from"
                )
            limits = [(limit * own.scale + own.offset - bands.offset) / bands.scale for limit in limits]
        return RangeNormalisation(tuple(limits[0].tolist()), tuple(limits[1].tolist()))


class SpectralTraining(CodecTraining):
    """Some steps encode all bands, the others a subset; all bands are to come back."""

    def __init__(self, codec: SpectralCodec) -> None:
        super().__init__(codec)
        self.full_share, self.sensors = codec.full_share, _stand_ins(codec.bands)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        """Loss of one batch of normalised chips (n, B, H, W), NaN where there is no data."""
        first = self.vae.encoder.conv_in
        first.present = self.draw(self.global_step)
        loss = super().training_step(batch, index)
        first.present = None
        return loss

    def draw(self, step: int) -> list[int] | None:
        """Positions of the bands that a step encodes, None for all.

        Half of the subsets stand in for the bands of a known sensor, the others are of any size.
        """
        generator = step_generator(self.seed, 3, step)
        count = len(self.bands)
        if count == 1 or float(torch.rand(1, generator=generator)) < self.full_share:
            return None
        if self.sensors and float(torch.rand(1, generator=generator)) < 0.5:
            return self.sensors[int(torch.randint(len(self.sensors), (1,), generator=generator))]
        size = int(torch.randint(1, count, (1,), generator=generator))
        return sorted(torch.randperm(count, generator=generator)[:size].tolist())


def _stand_ins(bands: BandSet) -> list[list[int]]:
    """Positions of the bands nearest to those of each known sensor, where a band is near each."""
    found: list[list[int]] = []
    for sensor in list_sensors():
        try:
            wanted = sorted({bands.nearest(centre) for centre in get_bands(sensor).centres if centre is not None})
        except BandError:
            continue
        if len(wanted) < len(bands):
            found.append(wanted)
    return found
