"""``kl``: a KL autoencoder for any number of bands, trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import lightning
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.bands import BandSet, check_count
from rsdistill.codecs.base import CODECS, Codec, describe_shape
from rsdistill.codecs.klt import fit_klt, start_at_klt
from rsdistill.codecs.normalise import Normalisation, sample_positions
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import CodecError, OptionError
from rsdistill.training import StepBatches, TrainerOptions, derived_seed, fit, resolve_device, step_generator

_GROUPS = 8
_WARM_UP = 0.05


@CODECS.register(
    "kl",
    summary="KL autoencoder from scratch, any band count",
    source="Kingma and Welling 2014; layout of Rombach et al. 2022",
)
class KLCodec(Codec):
    """A small ``diffusers.AutoencoderKL`` trained on normalised chips by L1 and a KL term.

    With one resolution (``block_channels`` of one width) it starts at block PCA instead of at random
    weights, and is as good as that before its first step: what to use where compute is short. With
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
        kl_weight: Weight of the KL term beside the L1 reconstruction error per value.
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
        self.steps, self.batch, self.lr, self.kl_weight, self.seed = steps, batch, lr, kl_weight, seed
        self._latent_channels = latent_channels
        self.vae_: AutoencoderKL | None = None
        self.normalisation_: Normalisation | None = None

    def __repr__(self) -> str:
        """Bands, reduction, and whether it is fitted."""
        state = "fitted" if self.vae_ is not None else "not fitted"
        return f"KLCodec({len(self.bands)} bands, {self._latent_channels} channels, 1/{self.factor} size, {state})"

    @property
    def latent_channels(self) -> int:
        """Channels C of the latents."""
        return self._latent_channels

    @property
    def factor(self) -> int:
        """How many times smaller latents are than chips along each side."""
        return int(self.patch * 2 ** (len(self.block_channels) - 1))

    def fit(self, data: SceneData, folder: str | Path | None = None, trainer: TrainerOptions | None = None) -> Self:
        """Train on ``data.train``; see :meth:`Codec.fit`.

        Raises:
            BandError: If the data has another number of bands, or a band without valid pixels.
            CodecError: If the chips' sides are no multiple of the factor, or one resolution has
                more latent channels than values in a patch.
        """
        view = data.train
        sample = view.images(sample_positions(len(view), self.seed))
        self._check(sample.shape[1:], f"a chip of {data.name}")
        values = len(self.bands) * self.patch**2
        if self._starts_at_klt and values < self._latent_channels:
            raise CodecError(
                f"codec '{self.name}' cannot start {self._latent_channels} latent channels from patches of {values} "
                f"values; raise codec.patch or lower codec.latent_channels"
            )
        self.normalisation_ = Normalisation.fit(sample, self.bands)
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(self.seed, 0))
            self.vae_ = self._build(sample.shape[-1])
            if self._starts_at_klt:
                start_at_klt(self.vae_, *fit_klt(self._patches(sample), self._latent_channels, self.seed % 2**31))

        def fetch(positions: torch.Tensor) -> torch.Tensor:
            return self._patches(view.images(positions.numpy()))

        module = _Training(self.vae_, self.patch, self.steps, self.lr, self.kl_weight, self.seed)
        batches = StepBatches(fetch, len(view), self.batch, derived_seed(self.seed, 1))
        fit(module, batches, self.steps, folder, trainer, label="codec")
        self.vae_.eval().requires_grad_(False).to(resolve_device(trainer))
        self._set_scale(torch.from_numpy(sample))
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

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (N, C, h, w) to chips (N, B, H, W) in sensor units."""
        vae, normalisation = self._fitted()
        decoded: torch.Tensor = vae.decode(latents.to(vae.device) / vae.config.scaling_factor).sample
        return normalisation.inverse(F.pixel_shuffle(decoded, self.patch))

    def to(self, device: torch.device) -> Self:
        """Move the weights to a device."""
        self._fitted()[0].to(device)
        return self

    def psnr(self, view: SceneView) -> float:
        """See :meth:`Codec.psnr`; at most 512 chips of the view are measured."""
        normalisation = self._fitted()[1]
        chips = torch.from_numpy(view.images(sample_positions(len(view), self.seed)))
        values = []
        for part in chips.split(64):
            wanted = normalisation.forward(part, self.bands)
            rebuilt = normalisation.forward(self.decode(self.encode(part)).cpu(), self.bands)
            values.append(10.0 * torch.log10(4.0 / (wanted - rebuilt).square().mean((1, 2, 3))))
        return float(torch.cat(values).mean())

    def autoencoder(self) -> AutoencoderKL:
        """The autoencoder itself; see :meth:`Codec.autoencoder`."""
        return self._fitted()[0]

    def _save(self, folder: Path) -> dict[str, Any]:
        vae, normalisation = self._fitted()
        vae.save_pretrained(folder)
        return {
            "patch": self.patch,
            "normalisation": {"low": list(normalisation.low), "high": list(normalisation.high)},
        }

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> KLCodec:
        vae = AutoencoderKL.from_pretrained(folder, local_files_only=True)
        codec = cls(
            BandSet.from_dict(description["bands"]),
            vae.config.latent_channels,
            description["patch"],
            vae.config.block_out_channels,
            vae.config.layers_per_block,
        )
        ranges = description["normalisation"]
        codec.normalisation_ = Normalisation(tuple(ranges["low"]), tuple(ranges["high"]))
        codec.vae_ = vae.eval().requires_grad_(False)
        return codec

    def _build(self, size: int) -> AutoencoderKL:
        depth, channels = len(self.block_channels), len(self.bands) * self.patch**2
        return AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=self.block_channels,
            layers_per_block=self.layers_per_block,
            latent_channels=self._latent_channels,
            norm_num_groups=1 if self._starts_at_klt else _GROUPS,
            sample_size=size // self.patch,
            # At 8x8 latents attention costs time and did not lower the reconstruction error.
            mid_block_add_attention=False,
        )

    @property
    def _starts_at_klt(self) -> bool:
        return len(self.block_channels) == 1

    def _patches(self, images: NDArray[Any]) -> torch.Tensor:
        """Chips in sensor units to what the autoencoder sees."""
        normalised = self._fitted_normalisation().forward(torch.from_numpy(images), self.bands)
        return F.pixel_unshuffle(normalised, self.patch)

    def _set_scale(self, sample: torch.Tensor) -> None:
        assert self.vae_ is not None
        self.vae_.register_to_config(scaling_factor=1.0)
        means = torch.cat([self.posterior(part)[0].cpu() for part in sample.split(64)])
        self.vae_.register_to_config(scaling_factor=float(1.0 / means.std().clamp_min(1e-6)))

    def _fitted_normalisation(self) -> Normalisation:
        if self.normalisation_ is None:
            raise CodecError(f"codec '{self.name}' is not fitted; call fit(data) or load a fitted one")
        return self.normalisation_

    def _fitted(self) -> tuple[AutoencoderKL, Normalisation]:
        if self.vae_ is None:
            raise CodecError(f"codec '{self.name}' is not fitted; call fit(data) or load a fitted one")
        return self.vae_, self._fitted_normalisation()

    def _check(self, shape: Sequence[int], where: str) -> None:
        check_count(shape[0], self.bands, where)
        if any(side % self.factor for side in shape[1:]):
            raise CodecError(
                f"{where} has shape {describe_shape(shape)}, but codec '{self.name}' needs sides that are a "
                f"multiple of {self.factor}; set data.size to one"
            )


class _Training(lightning.LightningModule):
    """L1 + KL on chips turned and flipped at random."""

    def __init__(self, vae: AutoencoderKL, patch: int, steps: int, lr: float, kl_weight: float, seed: int) -> None:
        super().__init__()
        self.vae, self.patch = vae, patch
        self.steps, self.lr, self.kl_weight, self.seed = steps, lr, kl_weight, seed

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        generator = step_generator(self.seed, 2, self.global_step)
        turns, flip = (int(torch.randint(n, (1,), generator=generator)) for n in (4, 2))
        chips = torch.rot90(F.pixel_shuffle(batch, self.patch), turns, (2, 3))
        chips = F.pixel_unshuffle(chips.flip(3) if flip else chips, self.patch)
        latent = self.vae.encode(chips).latent_dist
        noise = torch.randn(latent.mean.shape, generator=generator).to(latent.mean)
        rebuilt = self.vae.decode(latent.mean + latent.std * noise).sample
        error = F.l1_loss(rebuilt, chips)
        divergence = latent.kl().mean()
        self.log("l1", error, prog_bar=True)
        self.log("kl", divergence)
        loss: torch.Tensor = error + self.kl_weight * divergence
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(self.vae.parameters(), self.lr, betas=(0.9, 0.99), weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.lr, total_steps=self.steps + 1, pct_start=_WARM_UP, cycle_momentum=False
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
