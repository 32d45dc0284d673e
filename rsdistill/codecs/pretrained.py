"""``pretrained``: the autoencoder of a Stable Diffusion pipeline, as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.bands import NATURAL_COLOUR, BandSet
from rsdistill.codecs.autoencoder import AutoencoderCodec, CodecTraining
from rsdistill.codecs.base import CODECS, DESCRIPTION
from rsdistill.codecs.losses import LossOptions
from rsdistill.codecs.sources import KNOWN, Source
from rsdistill.datasets.base import SceneView
from rsdistill.errors import BandError, CodecError, OptionError
from rsdistill.training.trainer import TrainerOptions, resolve_device

_COLOURS = ("red", "green", "blue")
# How far in micrometres a band may lie from a colour to stand for it: a red edge at 0.705 is still
# "red" where there is no other, coastal aerosol at 0.443 is not "blue".
_NEAR = 0.041
# Latents whose spread on train lies within this factor of 1 keep the pretrained scale.
_SCALE_TOLERANCE = 2.0
# Share of the steps over which the hold rises to its full weight.
_RISE = 0.7


@CODECS.register(
    "inflated",
    summary="a pretrained RGB KL autoencoder extended to the bands",
    source="weight inflation after Carreira and Zisserman 2017; autoencoder of Rombach et al. 2022",
)
class InflatedCodec(AutoencoderCodec):
    """Any RGB ``diffusers.AutoencoderKL``, given input and output weights for further bands.

    At the start the bands nearest to red, green and blue take the pretrained weights, whatever their
    place in the band set; all others enter with weight zero. So latents, and the red, green and blue
    of a reconstruction, equal the pretrained model's whatever the other bands hold. Each further band
    leaves through a copy of the output weights of the colour nearest in wavelength. Training then
    learns the other bands, and holds latents and colours near those of the pretrained model.

    Args:
        bands: Bands to encode; every one needs its centre wavelength.
        pretrained: Folder of the autoencoder, or its id on the Hugging Face hub. A codec folder that
            ``kl`` saved tells the order of its bands; others are taken to be red, green, blue.
        revision: Branch, tag or commit on the hub.
        subfolder: Folder within it, such as ``vae`` in a Stable Diffusion checkpoint.
        local_files_only: Never look on the hub beyond what is already downloaded.
        patch: Side of the patches whose pixels are the channels of the pretrained model: that of the ``kl`` codec
            which it comes from, 1 for all others.
        freeze: ``middle`` trains the first and the last convolution alone, ``none`` everything.
        hold: Weight that holds colours to the pretrained model's reconstruction.
        hold_latents: Weight that holds latents to the pretrained model's: small, for they have to move
            to carry further bands. Both weights rise over the first part of the fit.
        steps: Optimiser steps of the fit.
        batch: Chips a step.
        lr: Peak learning rate.
        loss: How reconstructions are compared with chips.
        kl_weight: Weight of the KL term, summed over the latents of a chip.
        seed: Seed of order and augmentation.

    Raises:
        BandError: If a band has no wavelength, or none is near red, green or blue.
    """

    name = "inflated"

    def __init__(
        self,
        bands: BandSet,
        pretrained: str,
        revision: str | None = None,
        subfolder: str | None = None,
        local_files_only: bool = False,
        patch: Annotated[int, Field(ge=1)] = 1,
        freeze: Literal["middle", "none"] = "none",
        hold: Annotated[float, Field(ge=0)] = 2.0,
        hold_latents: Annotated[float, Field(ge=0)] = 0.1,
        steps: Annotated[int, Field(ge=1)] = 1000,
        batch: Annotated[int, Field(ge=1)] = 16,
        lr: Annotated[float, Field(gt=0)] = 1e-3,
        loss: LossOptions | None = None,
        kl_weight: Annotated[float, Field(ge=0)] = 1e-6,
        seed: int = 0,
    ) -> None:
        self.bands, self.colours = bands, find_colours(bands)
        self.pretrained, self.revision, self.subfolder = pretrained, revision, subfolder
        self.local_files_only, self.patch, self.freeze = local_files_only, patch, freeze
        self.hold, self.hold_latents = hold, hold_latents
        self.steps, self.batch, self.lr, self.loss, self.kl_weight = steps, batch, lr, loss or LossOptions(), kl_weight
        self.seed = seed

    @property
    def latent_channels(self) -> int:
        """Channels C of the latents: the pretrained model's."""
        return int(self._config["latent_channels"])

    @property
    def factor(self) -> int:
        """How many times smaller latents are than chips: the pretrained model's."""
        return int(self.patch * 2 ** (len(self._config["block_out_channels"]) - 1))

    @cached_property
    def _config(self) -> dict[str, Any]:
        if self.vae_ is not None:
            return dict(self.vae_.config)
        config: dict[str, Any] = self._read(AutoencoderKL.load_config)
        if config.get("_class_name") != "AutoencoderKL":
            raise CodecError(
                f"{self._where} holds the model '{config.get('_class_name')}', not an AutoencoderKL; choose another"
            )
        counts = (config["in_channels"], config["out_channels"])
        wanted = len(_COLOURS) * self.patch**2
        if counts != (wanted, wanted):
            raise CodecError(
                f"{self._where} takes {counts[0]} channels and gives {counts[1]}, but codec '{self.name}' starts from "
                f"an RGB autoencoder of {wanted} and {wanted}; choose another for codec.pretrained, or set codec.patch "
                f"to the patch of the codec that it comes from"
            )
        return config

    def _read(self, load: Any, **options: Any) -> Any:
        """Call one of diffusers' loaders on the pretrained model."""
        place = {"revision": self.revision, "subfolder": self.subfolder, "local_files_only": self.local_files_only}
        try:
            return load(self.pretrained, **place, **options)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CodecError(
                f"{self._where} cannot be read as a diffusers AutoencoderKL in safetensors ({reason}); "
                f"check codec.pretrained, codec.subfolder and codec.revision"
            ) from error

    @property
    def _where(self) -> str:
        return f"codec.pretrained '{'/'.join(filter(None, (self.pretrained, self.subfolder)))}'"

    def _load_pretrained(self) -> AutoencoderKL:
        """The pretrained model, its channels put into the order red, green, blue."""
        order = _channel_order(Path(self.pretrained) / (self.subfolder or ""))
        return inflate(self._read(AutoencoderKL.from_pretrained, use_safetensors=True), order, order, self.patch)

    def _build(self, sample: NDArray[Any]) -> AutoencoderKL:
        entering = [self.colours.index(b) if b in self.colours else None for b in range(len(self.bands))]
        vae = inflate(self._load_pretrained(), entering, nearest_colours(self.bands, self.colours), self.patch)
        if self.freeze == "middle":
            vae.requires_grad_(False)
            vae.encoder.conv_in.requires_grad_(True)
            vae.decoder.conv_out.requires_grad_(True)
        return vae

    def _training(self) -> CodecTraining:
        return _Training(self, self._load_pretrained())

    def _set_scale(self, sample: torch.Tensor) -> None:
        """Keep the pretrained scale, which models of its latents expect, unless it is far from unit variance."""
        if not 1.0 / _SCALE_TOLERANCE < self._deviation(sample) < _SCALE_TOLERANCE:
            super()._set_scale(sample)


class _Training(CodecTraining):
    """The shared training, held to the pretrained model's latents and colours."""

    def __init__(self, codec: InflatedCodec, pretrained: AutoencoderKL) -> None:
        super().__init__(codec)
        self.colours, self.hold, self.hold_latents = list(codec.colours), codec.hold, codec.hold_latents
        self.pretrained = pretrained.requires_grad_(False)

    def anchor(self, chips: torch.Tensor, latents: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor | float:
        """Distance to what the pretrained model makes of the colours alone.

        Colours by L1; latents, in units of about unit variance, by mean square, which lets them move a
        little everywhere. Both weights rise from zero: held from the first step, the latents find no
        way to carry the other bands, whose error then stays at what can be guessed from the colours.
        """
        if not (self.hold or self.hold_latents):
            return 0.0
        with torch.no_grad():
            wanted = self.pretrained.encode(F.pixel_unshuffle(chips[:, self.colours], self.patch)).latent_dist.mean
            colours = F.pixel_shuffle(self.pretrained.decode(wanted).sample, self.patch)
        drift = F.mse_loss(latents, wanted) * self.pretrained.config.scaling_factor**2
        change = F.l1_loss(rebuilt[:, self.colours], colours)
        self.log("drift", drift)
        self.log("change", change)
        progress = min(1.0, self.global_step / (_RISE * self.steps))
        held: torch.Tensor = progress**2 * (self.hold * change + self.hold_latents * drift)
        return held


def find_colours(bands: BandSet) -> tuple[int, int, int]:
    """Positions of the bands nearest to red, green and blue in wavelength, whatever their order.

    Raises:
        BandError: If a band has no wavelength, or a colour has no band of its own.
    """
    for band in bands:
        if band.centre is None:
            raise BandError(
                f"band '{band.name}' of sensor '{bands.sensor}' has no centre wavelength, which codec 'inflated' "
                f"needs; give it one in data.bands, or choose codec 'kl'"
            )
    found: list[int] = []
    for colour, wavelength in zip(_COLOURS, NATURAL_COLOUR, strict=True):
        try:
            found.append(bands.nearest(wavelength, _NEAR))
        except BandError as error:
            raise BandError(
                f"no {colour} band: none of sensor '{bands.sensor}' ({', '.join(bands.names)}) lies within {_NEAR} µm "
                f"of {wavelength} µm; add one with data.bands, or choose codec 'kl'"
            ) from error
    red, green, blue = found
    if len(set(found)) < len(found):
        shared = bands.names[green]
        raise BandError(
            f"band '{shared}' of sensor '{bands.sensor}' lies between two colours and cannot stand for both; "
            f"add a band with data.bands, or choose codec 'kl'"
        )
    return red, green, blue


def nearest_colours(bands: BandSet, colours: Sequence[int]) -> list[int]:
    """For each band, which of red (0), green (1) and blue (2) is nearest to it in wavelength."""
    centres = [band.centre or 0.0 for band in bands]
    return [min(range(len(colours)), key=lambda c: abs(centres[colours[c]] - centre)) for centre in centres]


@torch.no_grad()
def inflate(
    vae: AutoencoderKL, entering: Sequence[int | None], leaving: Sequence[int], patch: int = 1
) -> AutoencoderKL:
    """The same autoencoder with other first and last bands.

    Args:
        vae: An autoencoder.
        entering: For each new input band, whose weights it takes; None for zeros.
        leaving: For each new output band, whose weights it takes.
        patch: Side of the patches whose pixels are the channels of a band.
    """
    weights, pixels = vae.state_dict(), patch**2
    first = weights["encoder.conv_in.weight"].unflatten(1, (-1, pixels))
    blank = torch.zeros_like(first[:, 0])
    taken = torch.stack([blank if band is None else first[:, band] for band in entering], 1)
    weights["encoder.conv_in.weight"] = taken.flatten(1, 2)
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        weights[name] = weights[name].unflatten(0, (-1, pixels))[list(leaving)].flatten(0, 1)
    # Stock pipelines know no shift of latents, so the inflated model has none.
    changes = {"in_channels": len(entering) * pixels, "out_channels": len(leaving) * pixels, "shift_factor": None}
    inflated: AutoencoderKL = AutoencoderKL.from_config({**vae.config, **changes})
    inflated.load_state_dict(weights)
    return inflated


def _channel_order(folder: Path) -> list[int]:
    """Channels of a pretrained model that hold red, green and blue: as its codec says, or the first three."""
    description = folder / DESCRIPTION
    if not description.exists():
        return list(range(len(_COLOURS)))
    try:
        bands = BandSet.from_dict(json.loads(description.read_text(encoding="utf-8"))["bands"])
        return list(find_colours(bands))
    except (KeyError, ValueError, TypeError) as error:
        raise CodecError(f"{description} cannot be read ({error}); fit and save that codec again") from error
    except BandError as error:
        raise BandError(f"codec.pretrained '{folder}' is no RGB autoencoder: {error}") from error


@CODECS.register(
    "pretrained",
    summary="the RGB autoencoder of a pretrained pipeline, as it is",
    source="Rombach et al. 2022",
)
class PretrainedCodec(AutoencoderCodec):
    """The ``vae`` of a pipeline that a pretrained denoiser belongs to: weights and scale stay as they are.

    Nothing is learned but the range of bands that are not 8-bit. Red, green and blue may stand in any
    order, and go into the pretrained channels by their wavelengths.

    Args:
        bands: Three bands: one near red, one near green, one near blue.
        source: Name of a pretrained preset such as ``sd15``, a pipeline's folder in diffusers' format, or its hub
            id, with ``@revision`` for a fixed one. A run takes that of the method's preset unless told otherwise.
        seed: Seed of the chips that ranges are taken from.

    Raises:
        OptionError: If no source is given.
        BandError: If the bands are not red, green and blue.
    """

    name = "pretrained"

    def __init__(self, bands: BandSet, source: str | None = None, seed: int = 0) -> None:
        if not source:
            raise OptionError(
                f"codec 'pretrained' needs option source: {', '.join(KNOWN)}, a pipeline's folder in diffusers' "
                f"format, or its hub id; in a run it is that of distill.options.preset, if that is a pretrained one"
            )
        if len(bands) != 3:
            raise BandError(
                f"codec 'pretrained' takes red, green and blue as they are, but {len(bands)} bands were given "
                f"({', '.join(bands.names)}); choose three with data.bands, or codec 'inflated', which adds bands"
            )
        self.bands, self.source, self.seed = bands, source, seed
        self.colours = find_colours(bands)

    @property
    def latent_channels(self) -> int:
        """Channels C of the latents: the pretrained model's."""
        known = self._source.known
        return known.channels if known else int(self._config["latent_channels"])

    @property
    def factor(self) -> int:
        """How many times smaller latents are than chips: the pretrained model's."""
        known = self._source.known
        return known.factor if known else int(2 ** (len(self._config["block_out_channels"]) - 1))

    @cached_property
    def _source(self) -> Source:
        return Source.of(self.source)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return dict(self.vae_.config) if self.vae_ is not None else self._source.config("vae")

    def _build(self, sample: NDArray[Any]) -> AutoencoderKL:
        self._source.check()
        vae = self._source.load("vae", AutoencoderKL)
        counts = (vae.config.in_channels, vae.config.out_channels)
        if counts != (3, 3):
            raise CodecError(
                f"vae of {self._source.where} takes {counts[0]} channels and gives {counts[1]}, but codec 'pretrained' "
                f"is for RGB; choose another for codec.source"
            )
        order = [self.colours.index(band) for band in range(len(self.bands))]
        return inflate(vae, order, order)

    def _learn(
        self, view: SceneView, sample: NDArray[Any], folder: str | Path | None, trainer: TrainerOptions | None
    ) -> None:
        """Nothing: the denoiser knows these latents, at this scale."""
        vae = self._fitted()[0]
        vae.eval().requires_grad_(False).to(resolve_device(trainer))
