"""Presets: shapes of models trained from scratch, and pretrained pipelines by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rsdistill.codecs.sources import KNOWN, KnownPipeline, Source


@dataclass(frozen=True)
class Preset:
    """Sizes of a model that is trained from scratch.

    Attributes:
        name: Its name.
        summary: One line for listings.
        channels: Width of the UNet at each resolution.
        layers: Residual and attention layers at each resolution.
        heads: Attention heads of the UNet.
        text_width: Width of the text encoder.
        text_layers: Layers of the text encoder.
        max_tokens: Longest prompt in tokens, start and end included.
    """

    name: str
    summary: str
    channels: tuple[int, ...]
    layers: int
    heads: int
    text_width: int
    text_layers: int
    max_tokens: int
    # Pretrained pipelines name their paper here.
    source: ClassVar[str] = ""


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("tiny", "from scratch, any bands, minutes on a CPU", (64, 128), 1, 4, 64, 2, 32),
        Preset("compact", "from scratch, any bands, half as wide again", (96, 192), 1, 4, 96, 2, 32),
        Preset("small", "from scratch, any bands, one GPU", (128, 256, 512), 2, 8, 256, 4, 77),
    )
}


def list_presets() -> list[Preset | KnownPipeline]:
    """All presets that have a name: those from scratch, then the pretrained ones."""
    return [*PRESETS.values(), *KNOWN.values()]


def pretrained_source(preset: str) -> Source | None:
    """The pipeline that a preset stands for; None where it is trained from scratch.

    Raises:
        UnknownNameError: If there is neither such a preset nor such a folder.
        ModelError: If it is a folder that does not exist.
    """
    return None if preset in PRESETS else Source.of(preset, others=PRESETS)


def halvings(preset: str) -> int:
    """How often the UNet of a preset halves latents.

    Raises:
        UnknownNameError: If there is no such preset.
        ModelError: If a pretrained pipeline cannot be read.
    """
    source = pretrained_source(preset)
    if source is None:
        return len(PRESETS[preset].channels) - 1
    return source.known.halvings if source.known else len(source.config("unet")["block_out_channels"]) - 1
