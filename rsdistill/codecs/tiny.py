"""``tiny``: a tiny pretrained autoencoder of the TAESD family, for any bands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import lightning
import torch
from pydantic import Field
from safetensors.torch import save_file

from rsdistill.bands import BandSet
from rsdistill.codecs.autoencoder import one_cycle
from rsdistill.codecs.base import CODECS, Codec
from rsdistill.codecs.losses import LossOptions, reconstruction_loss
from rsdistill.codecs.pretrained import find_colours, nearest_colours
from rsdistill.codecs.tiny_network import TinyNetwork, load_tiny
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import CodecError, OptionError
from rsdistill.imaging.normalisation import RangeNormalisation, sample_positions
from rsdistill.imaging.pixels import dihedral
from rsdistill.training.trainer import StepBatches, TrainerOptions, derived_seed, fit, resolve_device, step_generator
from rsdistill.utils.options import parse_arguments, plain

_WEIGHTS = "tiny.safetensors"
_BATCH = 64
# Latents are given without a spread of their own: the networks are no variational ones.
_LOGVAR = -30.0
# What a processor must be able to do for half precision to be faster than full.
_BF16 = ("avx512_bf16", "amx_bf16")


@CODECS.register(
    "tiny",
    summary="a tiny pretrained autoencoder, whose decoder bears a small denoiser's errors; any bands",
    source="Bohan, Tiny AutoEncoder for Stable Diffusion, 2023",
)
class TinyCodec(Codec):
    """A distilled autoencoder of a large diffusion model, with latents brought to unit variance by channel.

    Its decoder was trained to give plausible pictures from latents that are not quite right, which is what a small
    denoiser draws; so its tiles show scenes where those of a codec with a better PSNR show texture. Bands beyond
    red, green and blue enter through the first convolution, with weight zero at the start, and leave through the last,
    from the weights of the colour nearest in wavelength.

    Args:
        bands: Bands to encode; one near red, one near green and one near blue among them.
        source: Safetensors file in the layout of TAEF2, folder in diffusers' format, or hub id, with ``@revision``
            for a fixed one.
        local_files_only: Never look on the hub beyond what is already downloaded.
        trained: What the fit changes: ``none``, ``ends`` (first and last convolution), ``all``; ``auto`` is none for
            red, green and blue alone, and the ends where there are further bands.
        steps: Optimiser steps of the fit, where it changes anything.
        batch: Chips a step.
        lr: Peak learning rate.
        loss: How reconstructions are compared with chips.
        precision: ``bf16`` is two to four times as fast on processors that have it in hardware; ``auto`` takes it on
            those, which makes latents differ a little between machines; ``32`` is the same everywhere.
        seed: Seed of order and augmentation.

    Raises:
        BandError: If a band has no wavelength, or none is near red, green or blue.
        OptionError: If further bands are to come in without a fit.
    """

    name = "tiny"

    def __init__(
        self,
        bands: BandSet,
        source: str = "madebyollin/taesd",
        local_files_only: bool = False,
        trained: Literal["auto", "none", "ends", "all"] = "auto",
        steps: Annotated[int, Field(ge=1)] = 300,
        batch: Annotated[int, Field(ge=1)] = 16,
        lr: Annotated[float, Field(gt=0)] = 1e-3,
        loss: LossOptions | None = None,
        precision: Literal["auto", "32", "bf16"] = "auto",
        seed: int = 0,
    ) -> None:
        self.bands, self.colours = bands, find_colours(bands)
        self.source, self.local_files_only, self.trained = source, local_files_only, trained
        self.steps, self.batch, self.lr, self.loss = steps, batch, lr, loss or LossOptions()
        self.precision, self.seed = precision, seed
        if trained == "none" and len(bands) > len(self.colours):
            raise OptionError(
                f"codec.trained 'none' leaves {len(bands) - len(self.colours)} bands without a way in; choose 'ends' "
                f"or 'all', or red, green and blue alone with data.bands"
            )
        self._network: TinyNetwork | None = None
        self._read: TinyNetwork | None = None
        self._normalisation: RangeNormalisation | None = None
        self._mean = self._deviation = torch.empty(0)

    def __repr__(self) -> str:
        """Bands, source, and whether it is fitted."""
        state = "not fitted" if self._network is None else "fitted"
        return f"TinyCodec({len(self.bands)} bands, {self.source}, {state})"

    @property
    def latent_channels(self) -> int:
        """Channels C of the latents: the pretrained network's."""
        return self._pretrained.latent_channels

    @property
    def factor(self) -> int:
        """How many times smaller latents are than chips: the pretrained network's."""
        return self._pretrained.factor

    @property
    def _pretrained(self) -> TinyNetwork:
        """The network, or before the fit the one it will start from."""
        if self._network is not None:
            return self._network
        self._read = self._read or load_tiny(self.source, self.local_files_only)
        return self._read

    def fit(self, data: SceneData, folder: str | Path | None = None, trainer: TrainerOptions | None = None) -> Self:
        """Train what is to be trained, and take mean and deviation of each latent channel; see :meth:`Codec.fit`.

        Raises:
            BandError: If the data has another number of bands, or a band without valid pixels.
            CodecError: If the chips' sides are no multiple of the factor, or the weights cannot be read.
        """
        view = data.train
        sample = view.images(sample_positions(len(view), self.seed))
        self._check(sample.shape[1:], f"a chip of {data.name}")
        self._normalisation = RangeNormalisation.fit(sample, self.bands)
        network = load_tiny(self.source, self.local_files_only)
        entering = [self.colours.index(b) if b in self.colours else None for b in range(len(self.bands))]
        network.extend(entering, nearest_colours(self.bands, self.colours))
        self._network = network
        automatic = "ends" if len(self.bands) > len(self.colours) else "none"
        trained = automatic if self.trained == "auto" else self.trained
        network.requires_grad_(trained == "all")
        if trained != "none":
            network.encoder.layers[0].requires_grad_(True)
            network.decoder.layers[-1].requires_grad_(True)
            self._train(view, folder, trainer)
        self._settle(resolve_device(trainer))
        self._standardise(torch.from_numpy(sample))
        return self

    def _train(self, view: SceneView, folder: str | Path | None, trainer: TrainerOptions | None) -> None:
        network, normalisation = self._fitted()

        def fetch(positions: torch.Tensor) -> torch.Tensor:
            chips = torch.from_numpy(view.images(positions.numpy()))
            return normalisation.forward(chips, self.bands, fill=math.nan)

        module = _Training(self, network, normalisation)
        batches = StepBatches(fetch, len(view), self.batch, derived_seed(self.seed, 1))
        fit(module, batches, self.steps, folder, trainer, label="codec")

    def _standardise(self, sample: torch.Tensor) -> None:
        """Bring each channel of the latents of train to mean 0 and unit variance."""
        channels = self._fitted()[0].latent_channels
        self._mean, self._deviation = torch.zeros(channels), torch.ones(channels)
        latents = torch.cat([self.encode(part).cpu() for part in sample.split(_BATCH)])
        self._mean, self._deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3)).clamp_min(1e-6)

    @torch.no_grad()
    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardised latents and a log-variance that is next to nothing; see :meth:`Codec.posterior`."""
        network, normalisation = self._fitted()
        self._check(images.shape[1:], "a chip")
        chips = normalisation.forward(images.to(self._device), self.bands).contiguous(memory_format=torch.channels_last)
        with self._half():
            latents = network.encode(chips)
        mean, deviation = self._columns()
        standardised = ((latents.float() - mean) / deviation).contiguous()
        return standardised, torch.full_like(standardised, _LOGVAR)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Standardised latents (N, C, h, w) to chips (N, B, H, W) in sensor units; see :meth:`Codec.decode`."""
        network, normalisation = self._fitted()
        mean, deviation = self._columns()
        given = (latents.to(self._device) * deviation + mean).contiguous(memory_format=torch.channels_last)
        with self._half():
            decoded = network.decode(given)
        return normalisation.inverse(decoded.float().contiguous())

    def to(self, device: torch.device) -> Self:
        """Move the weights to a device."""
        self._fitted()[0].to(device)
        return self

    def save_weights(self, folder: Path) -> dict[str, Any]:
        """See :meth:`Codec.save_weights`."""
        network, normalisation = self._fitted()
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / _WEIGHTS)
        names = ("source", "local_files_only", "trained", "steps", "batch", "lr", "loss", "precision", "seed")
        return {
            "options": {name: plain(getattr(self, name)) for name in names},
            "network": network.description(),
            "normalisation": normalisation.to_dict(),
            "latents": {"mean": self._mean.tolist(), "deviation": self._deviation.tolist()},
        }

    @classmethod
    def load_weights(cls, folder: Path, description: dict[str, Any]) -> Self:
        """See :meth:`Codec.load_weights`."""
        options = parse_arguments(cls, description["options"], "codec.tiny")
        codec = cls(BandSet.from_dict(description["bands"]), **options)
        ranges, latents = description["normalisation"], description["latents"]
        codec._normalisation = RangeNormalisation(tuple(ranges["low"]), tuple(ranges["high"]))
        codec._network = TinyNetwork.of(description["network"], folder / _WEIGHTS)
        codec._mean, codec._deviation = (torch.tensor(latents[name]) for name in ("mean", "deviation"))
        codec._settle(torch.device("cpu"))
        return codec

    def _settle(self, device: torch.device) -> None:
        network: Any = self._fitted()[0]
        network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)

    def _half(self) -> torch.autocast:
        """Half precision where it is asked for or known to pay."""
        wanted = self.precision == "bf16"
        if self.precision == "auto" and self._device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
            can = torch.cpu.get_capabilities()
            wanted = any(can.get(name) for name in _BF16)
        return torch.autocast(self._device.type, torch.bfloat16, enabled=wanted)

    @property
    def _device(self) -> torch.device:
        return next(self._fitted()[0].parameters()).device

    def _columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean, deviation = (v.to(self._device)[None, :, None, None] for v in (self._mean, self._deviation))
        return mean, deviation

    def _fitted(self) -> tuple[TinyNetwork, RangeNormalisation]:
        if self._network is None or self._normalisation is None:
            raise CodecError("codec 'tiny' is not fitted; call fit(data) or load a fitted one")
        return self._network, self._normalisation


class _Training(lightning.LightningModule):
    """Reconstruction loss on chips turned and flipped at random."""

    def __init__(self, codec: TinyCodec, network: TinyNetwork, normalisation: RangeNormalisation) -> None:
        super().__init__()
        self.network, self.normalisation = network, normalisation
        self.bands, self.loss = codec.bands, codec.loss
        self.steps, self.seed, self.lr = codec.steps, codec.seed, codec.lr

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        turns, flip = (
            int(torch.randint(n, (1,), generator=step_generator(self.seed, 2, self.global_step))) for n in (4, 2)
        )
        chips = dihedral(batch, turns + 4 * flip)
        rebuilt = self.network.decode(self.network.encode(chips.nan_to_num(-1.0)))
        terms = reconstruction_loss(rebuilt, chips, self.normalisation, self.bands, self.loss)
        self.log(self.loss.error, terms.error, prog_bar=True)
        self.log("angle", terms.angle, prog_bar=True)
        return terms.total

    def configure_optimizers(self) -> Any:
        return one_cycle(self.network, self.lr, self.steps)
