"""What a model is made from, by its options: built for training, written, and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from rsdistill.codecs.base import Codec
from rsdistill.codecs.sources import Source
from rsdistill.diffusion.lora import LoraOptions, add_lora, load_lora, save_lora
from rsdistill.diffusion.model import DiffusionModel, Prediction
from rsdistill.diffusion.presets import PRESETS, pretrained_source
from rsdistill.diffusion.pretrained import load_pretrained
from rsdistill.diffusion.text import build_tokenizer
from rsdistill.errors import ModelError, OptionError
from rsdistill.options import plain
from rsdistill.provenance import write_json

BASE = "base.json"
# The UNet's share of a pipeline's weights: 0.81 in Stable Diffusion 1.5, less in 2.
_UNET_SHARE = 0.8


@dataclass(frozen=True)
class ModelPlan:
    """How a diffusion model begins, what of it trains, and how it is kept.

    A model from scratch and one whose UNet is tuned as a whole are kept whole, in diffusers' format. Of one
    with LoRA the low-rank weights alone are kept, beside what tells which base they belong to: the base
    itself, gigabytes that never change, stays where it was loaded from.

    Attributes:
        preset: A preset's name, the folder of a pipeline in diffusers' format, or its hub id.
        prediction: What the denoiser predicts; None for v from scratch, and for what a pretrained one does.
        lora: Low-rank updates of a pretrained model; None trains its whole UNet.
        unet_label: Label for a UNet that takes labels.

    Raises:
        OptionError: If there is no such preset, or the options contradict each other.
        ModelError: If the preset is a folder that does not exist.
    """

    preset: str = "tiny"
    prediction: Prediction | None = None
    lora: LoraOptions | None = None
    unet_label: int = 0

    def __post_init__(self) -> None:
        """Refuse a preset that there is not, and options of pretrained models for one from scratch."""
        pretrained_source(self.preset)
        given = [name for name, value in (("lora", self.lora), ("unet_label", self.unet_label)) if value]
        if self.preset in PRESETS and given:
            raise OptionError(
                f"option {given[0]} is for pretrained models, but preset '{self.preset}' is trained from scratch; "
                f"leave it out, or choose a preset such as sd15"
            )

    @cached_property
    def source(self) -> Source | None:
        """The pipeline that the model begins with; None from scratch."""
        return pretrained_source(self.preset)

    def options(self) -> dict[str, Any]:
        """Options that the trained model depends on."""
        if self.preset in PRESETS:
            return {"preset": self.preset, "prediction": self.prediction or "v_prediction"}
        return {
            "preset": self.preset,
            "prediction": self.prediction,
            "lora": plain(self.lora),
            "unet_label": self.unet_label,
        }

    def build(
        self, codec: Codec, prompts: Sequence[str], size: int, seed: int, captions: Iterable[str] = ()
    ) -> DiffusionModel:
        """A model ready to be trained.

        Args:
            codec: Fitted codec whose latents it models.
            prompts: Prompts of the classes.
            size: Side of the chips in pixels.
            seed: Seed of the weights that are new.
            captions: Further texts that it will be shown.

        Raises:
            ModelError: If a pretrained pipeline cannot be read or does not fit codec or size.
            OptionError: If options do not fit the pipeline.
        """
        if self.source is None:
            wanted = self.prediction or "v_prediction"
            return DiffusionModel.from_scratch(self.preset, codec, prompts, size, wanted, seed, captions)
        model = self._base(codec, size)
        return model if self.lora is None else add_lora(model, self.lora, seed)

    def save(self, model: DiffusionModel, folder: str | Path) -> None:
        """Write what was learned, and which base it belongs to."""
        folder = Path(folder)
        if self.lora is None:
            model.save(folder)
        else:
            save_lora(model, folder)
        if self.source is not None:
            write_json(folder / BASE, self.source.identity)

    def load(self, folder: str | Path, codec: Codec, size: int) -> DiffusionModel:
        """Read what :meth:`save` wrote.

        Args:
            folder: The folder.
            codec: The codec that the model was trained with.
            size: Side of the chips in pixels.

        Raises:
            ModelError: If it cannot be read, or the base is not the one that it was trained on.
        """
        folder = Path(folder)
        if self.lora is None:
            return replace(DiffusionModel.load(folder), unet_label=self.unet_label)
        told = base_of(folder)
        if self.source is None or told is None or told["weights"] != self.source.identity["weights"]:
            made = " ".join(f"{name} {value}" for name, value in (told or {}).items() if name != "weights")
            raise ModelError(
                f"LoRA in {folder} was trained on {made or 'an unknown base'}, and preset '{self.preset}' holds other "
                f"weights; name that base, or train again"
            )
        return load_lora(self._base(codec, size), folder)

    def memory(self, training: bool) -> float:
        """Bytes that the weights of a pretrained pipeline take; 0 from scratch, or where that is not known.

        Where the whole UNet trains, its gradient, two moments and average are counted with it.
        """
        if self.source is None:
            return 0.0
        return self.source.size * (1.0 + 4.0 * _UNET_SHARE if training and self.lora is None else 1.0)

    def tokenizer(self, prompts: Sequence[str], captions: Iterable[str] = ()) -> CLIPTokenizer:
        """The tokenizer of the model that :meth:`build` makes, without its weights."""
        if self.source is not None:
            tokenizer: CLIPTokenizer = self.source.load("tokenizer", CLIPTokenizer)
            return tokenizer
        return build_tokenizer(prompts, PRESETS[self.preset].max_tokens, captions)

    def _base(self, codec: Codec, size: int) -> DiffusionModel:
        assert self.source is not None
        model = load_pretrained(self.source, codec, size, self.unet_label)
        if self.prediction not in (None, model.prediction):
            raise OptionError(
                f"option prediction '{self.prediction}': {self.source.where} was trained to predict "
                f"'{model.prediction}'; leave it out"
            )
        return model


def base_of(folder: str | Path) -> dict[str, Any] | None:
    """What a kept model says of the base that it began with; None where it began from scratch.

    Raises:
        ModelError: If that cannot be read.
    """
    path = Path(folder) / BASE
    if not path.exists():
        return None
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: told[name] for name in ("hub", "revision", "folder", "weights") if name in told}
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({error}); train again") from error
