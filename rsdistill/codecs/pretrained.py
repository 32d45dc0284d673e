"""``pretrained``: the autoencoder of a Stable Diffusion pipeline, as it is."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.codecs.autoencoder import AutoencoderCodec
from rsdistill.codecs.base import CODECS
from rsdistill.codecs.inflated import find_colours, inflate
from rsdistill.codecs.sources import KNOWN, Source
from rsdistill.datasets.base import SceneView
from rsdistill.errors import BandError, CodecError, OptionError
from rsdistill.training import TrainerOptions, resolve_device


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
