"""What codecs around a ``diffusers.AutoencoderKL`` share: the ways in and out, the fit, the folder."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import lightning
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.codecs.base import Codec
from rsdistill.codecs.losses import LossOptions, reconstruction_loss
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import CodecError
from rsdistill.imaging.normalisation import RangeNormalisation, sample_positions, valid_pixels
from rsdistill.imaging.pixels import dihedral
from rsdistill.training.trainer import StepBatches, TrainerOptions, derived_seed, fit, resolve_device, step_generator
from rsdistill.utils.options import parse_arguments, plain

_WARM_UP = 0.05
_PEAK_SQUARED = 4.0


class AutoencoderCodec(Codec):
    """A codec whose network is an autoencoder on normalised chips, patches of pixels as channels.

    Subclasses keep each option in an attribute of its name, and build the network.

    Attributes:
        patch: Side of the patches whose pixels become channels before the autoencoder.
        steps: Optimiser steps of the fit.
        batch: Chips a step.
        lr: Peak learning rate.
        seed: Seed of everything random in the fit.
        loss: How reconstructions are compared with chips.
        kl_weight: Weight of the KL term, summed over the latents of a chip.
        vae_: The autoencoder, None before the fit.
        normalisation_: Range of each band, None before the fit.
    """

    patch: int = 1
    _latent_channels: int
    steps: int
    batch: int
    lr: float
    seed: int
    loss: LossOptions
    kl_weight: float
    vae_: AutoencoderKL | None = None
    normalisation_: RangeNormalisation | None = None

    @property
    def latent_channels(self) -> int:
        """Channels C of the latents."""
        return self._latent_channels

    def __repr__(self) -> str:
        """Bands, reduction, and whether it is fitted."""
        state = "fitted" if self.vae_ is not None else "not fitted"
        return (
            f"{type(self).__name__}({len(self.bands)} bands, {self.latent_channels} channels, 1/{self.factor} size, "
            f"{state})"
        )

    def fit(self, data: SceneData, folder: str | Path | None = None, trainer: TrainerOptions | None = None) -> Self:
        """Train on ``data.train``; see :meth:`Codec.fit`.

        Raises:
            BandError: If the data has another number of bands, or a band without valid pixels.
            CodecError: If the chips' sides are no multiple of the factor, or the network cannot be built.
        """
        view = data.train
        sample = view.images(sample_positions(len(view), self.seed))
        self._check(sample.shape[1:], f"a chip of {data.name}")
        self.normalisation_ = RangeNormalisation.fit(sample, self.bands)
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(self.seed, 0))
            self.vae_ = self._build(sample)

        self._learn(view, sample, folder, trainer)
        return self

    @torch.no_grad()
    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the scaled latents; see :meth:`Codec.posterior`."""
        vae, normalisation = self._fitted()
        self._check(images.shape[1:], "a chip")
        normalised = normalisation.forward(images.to(vae.device), self.bands)
        latent = vae.encode(F.pixel_unshuffle(normalised, self.patch)).latent_dist
        scale = vae.config.scaling_factor
        return latent.mean * scale, latent.logvar + 2.0 * math.log(scale)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (N, C, h, w) to chips (N, B, H, W) in sensor units; see :meth:`Codec.decode`."""
        vae, normalisation = self._fitted()
        decoded: torch.Tensor = vae.decode(latents.to(vae.device) / vae.config.scaling_factor).sample
        return normalisation.inverse(F.pixel_shuffle(decoded, self.patch))

    def to(self, device: torch.device) -> Self:
        """Move the weights to a device."""
        self._fitted()[0].to(device)
        return self

    def psnr(self, view: SceneView) -> float:
        """See :meth:`Codec.psnr`; over pixels with data, of at most 512 chips of the view."""
        normalisation = self._fitted()[1]
        chips = torch.from_numpy(view.images(sample_positions(len(view), self.seed)))
        values = []
        for part in chips.split(64):
            valid = valid_pixels(part, self.bands)
            wanted = normalisation.forward(part, self.bands)
            rebuilt = normalisation.forward(self.reconstruct(part), self.bands)
            square = ((wanted - rebuilt).square() * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp_min(1)
            values.append(10.0 * torch.log10(_PEAK_SQUARED / square.clamp_min(1e-20)))
        return float(torch.cat(values).mean())

    def autoencoder(self) -> AutoencoderKL:
        """The autoencoder itself; see :meth:`Codec.autoencoder`."""
        return self._fitted()[0]

    @abstractmethod
    def _build(self, sample: NDArray[Any]) -> AutoencoderKL:
        """The network before training, for chips like these (n, B, H, W) in sensor units."""

    def _learn(
        self, view: SceneView, sample: NDArray[Any], folder: str | Path | None, trainer: TrainerOptions | None
    ) -> None:
        """Train the network on a view, and set the scale of its latents."""
        vae = self._fitted()[0]

        def fetch(positions: torch.Tensor) -> torch.Tensor:
            return self._normalised(view.images(positions.numpy()))

        batches = StepBatches(fetch, len(view), self.batch, derived_seed(self.seed, 1))
        fit(self._training(), batches, self.steps, folder, trainer, label="codec")
        vae.eval().requires_grad_(False).to(resolve_device(trainer))
        self._set_scale(torch.from_numpy(sample))

    def _training(self) -> CodecTraining:
        """The module to train."""
        return CodecTraining(self)

    def save_weights(self, folder: Path) -> dict[str, Any]:
        """See :meth:`Codec.save_weights`."""
        vae, normalisation = self._fitted()
        vae.save_pretrained(folder)
        names = [name for name in inspect.signature(type(self)).parameters if name != "bands"]
        return {
            "options": {name: plain(getattr(self, name)) for name in names},
            "normalisation": {"low": list(normalisation.low), "high": list(normalisation.high)},
        }

    @classmethod
    def load_weights(cls, folder: Path, description: dict[str, Any]) -> Self:
        """See :meth:`Codec.load_weights`."""
        options = parse_arguments(cls, description["options"], f"codec.{cls.name}")
        codec: Self = cast(Any, cls)(BandSet.from_dict(description["bands"]), **options)
        ranges = description["normalisation"]
        codec.normalisation_ = RangeNormalisation(tuple(ranges["low"]), tuple(ranges["high"]))
        codec.vae_ = AutoencoderKL.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
        return codec

    def _normalised(self, images: NDArray[Any]) -> torch.Tensor:
        """Chips in sensor units to normalised ones, NaN where there is no data."""
        if self.normalisation_ is None:
            raise CodecError(self._not_fitted)
        return self.normalisation_.forward(torch.from_numpy(images), self.bands, fill=math.nan)

    def _set_scale(self, sample: torch.Tensor) -> None:
        """Bring the latents of train to unit variance."""
        vae = self._fitted()[0]
        vae.register_to_config(scaling_factor=1.0)
        vae.register_to_config(scaling_factor=1.0 / self._deviation(sample))

    def _deviation(self, sample: torch.Tensor) -> float:
        means = torch.cat([self.posterior(part)[0].cpu() for part in sample.split(64)])
        return float(means.std().clamp_min(1e-6))

    @property
    def _not_fitted(self) -> str:
        return f"codec '{self.name}' is not fitted; call fit(data) or load a fitted one"

    def _fitted(self) -> tuple[AutoencoderKL, RangeNormalisation]:
        if self.vae_ is None or self.normalisation_ is None:
            raise CodecError(self._not_fitted)
        return self.vae_, self.normalisation_

    def _check_start(self) -> None:
        """Refuse to start at block PCA where patches have fewer values than latents have channels."""
        values = len(self.bands) * self.patch**2
        if values < self.latent_channels:
            raise CodecError(
                f"codec '{self.name}' cannot start {self.latent_channels} latent channels from patches of "
                f"{values} values; raise codec.patch or lower codec.latent_channels"
            )


def build_autoencoder(
    channels: int, latent_channels: int, widths: Sequence[int], layers: int, groups: int, side: int
) -> AutoencoderKL:
    """An untrained autoencoder, with weights from torch's current random state.

    Args:
        channels: Channels that it takes and gives.
        latent_channels: Channels of its latents.
        widths: Width of each resolution; one halving between two of them.
        layers: Residual layers at each resolution.
        groups: Groups of its normalisation.
        side: Side of what it takes, in pixels.
    """
    vae: AutoencoderKL = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=groups,
        sample_size=side,
        # At 8x8 latents attention costs time and did not lower the reconstruction error.
        mid_block_add_attention=False,
    )
    return vae


class CodecTraining(lightning.LightningModule):
    """Reconstruction loss + KL on chips turned and flipped at random.

    Args:
        codec: A codec whose network is built and whose normalisation is fitted.
    """

    def __init__(self, codec: AutoencoderCodec) -> None:
        super().__init__()
        self.vae, self.normalisation = codec._fitted()
        self.bands, self.patch, self.loss = codec.bands, codec.patch, codec.loss
        self.steps, self.seed, self.lr, self.kl_weight = codec.steps, codec.seed, codec.lr, codec.kl_weight

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        """Loss of one batch of normalised chips (n, B, H, W), NaN where there is no data."""
        generator = step_generator(self.seed, 2, self.global_step)
        turns, flip = (int(torch.randint(n, (1,), generator=generator)) for n in (4, 2))
        chips = dihedral(batch, turns + 4 * flip)
        filled = chips.nan_to_num(-1.0)
        latent = self.vae.encode(F.pixel_unshuffle(filled, self.patch)).latent_dist
        noise = torch.randn(latent.mean.shape, generator=generator).to(latent.mean)
        rebuilt = F.pixel_shuffle(self.vae.decode(latent.mean + latent.std * noise).sample, self.patch)
        terms = reconstruction_loss(rebuilt, chips, self.normalisation, self.bands, self.loss)
        divergence = latent.kl().mean()
        self.log(self.loss.error, terms.error, prog_bar=True)
        self.log("angle", terms.angle, prog_bar=True)
        self.log("kl", divergence)
        loss: torch.Tensor = terms.total + self.kl_weight * divergence + self.anchor(filled, latent.mean, rebuilt)
        return loss

    def anchor(self, chips: torch.Tensor, latents: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor | float:
        """What else the fit is held to; nothing here.

        Args:
            chips: Normalised chips (n, B, H, W), finite.
            latents: Their posterior means, unscaled.
            rebuilt: Their reconstructions, normalised.
        """
        return 0.0

    def configure_optimizers(self) -> Any:
        """See :func:`one_cycle`."""
        return one_cycle(self.vae, self.lr, self.steps)


def one_cycle(network: torch.nn.Module, lr: float, steps: int) -> dict[str, Any]:
    """AdamW over what is not frozen, and one cycle of the learning rate over so many steps, as Lightning takes them."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, lr, total_steps=steps + 1, pct_start=_WARM_UP, cycle_momentum=False
    )
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
