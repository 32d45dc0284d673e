"""What a model is made from, by its options: built for training, written, and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from rsdistill.codecs.base import Codec
from rsdistill.codecs.sources import Source
from rsdistill.diffusion.lora import LoraOptions, add_lora, load_lora, save_lora
from rsdistill.diffusion.model import DiffusionModel, Prediction
from rsdistill.diffusion.presets import PRESETS, pretrained_source
from rsdistill.diffusion.text import build_tokenizer
from rsdistill.errors import ModelError, OptionError
from rsdistill.utils.io import write_json
from rsdistill.utils.options import plain

# How far a codec's scale of latents may be from the pipeline's own.
_SCALE_TOLERANCE = 1e-3


def load_pretrained(source: Source, codec: Codec, size: int, unet_class_label: int = 0) -> DiffusionModel:
    """The denoiser and text encoder of a pipeline, with a codec in place of its autoencoder.

    Training changes the UNet alone; :func:`rsdistill.diffusion.lora.add_lora` narrows that to low-rank weights.

    Args:
        source: The pipeline.
        codec: Fitted codec whose latents are the pipeline's own: ``pretrained``, or ``inflated`` from its ``vae``.
        size: Side of the chips in pixels.
        unet_class_label: Label given to a UNet that takes labels beside the text; 0 says nothing.

    Raises:
        ModelError: If the pipeline cannot be read, is of another layout, or does not fit codec or size.
        OptionError: If a label is given to a UNet that takes none, or that it does not know.
    """
    source.check()
    config = source.config("unet")
    _check_unet(source, config, unet_class_label)
    _check_codec(source, config, codec)
    side = _side(source, config, codec, size)
    unet = source.load("unet", UNet2DConditionModel)
    # Chips decide the size: what is drawn, here and by a stock pipeline from the saved folder, is as large as they.
    unet.register_to_config(sample_size=side)
    text_encoder = source.load("text_encoder", CLIPTextModel)
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        raise ModelError(
            f"text encoder of {source.where} is {text_encoder.config.hidden_size} wide, but its UNet attends to "
            f"{unet.config.cross_attention_dim}; they are not of one pipeline"
        )
    tokenizer = source.load("tokenizer", CLIPTokenizer)
    for part in (unet, text_encoder):
        part.eval().requires_grad_(False)
    parts = (codec.autoencoder(), text_encoder, tokenizer, unet, _schedule(source))
    return DiffusionModel(*parts, trains="unet", unet_class_label=unet_class_label)


def _schedule(source: Source) -> DDIMScheduler:
    """The noise schedule that the pipeline was trained with, whatever scheduler it is sampled with by default."""
    # Some saved schedulers do not say that latents are not clipped, which DDIM would otherwise do.
    scheduler: DDIMScheduler = DDIMScheduler.from_config({**source.config("scheduler"), "clip_sample": False})
    prediction = scheduler.config.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(f"{source.where} predicts '{prediction}'; choose a pipeline that predicts epsilon or v")
    return scheduler


def _check_unet(source: Source, config: dict[str, Any], label: int) -> None:
    """Refuse a UNet that wants more than noise, time, text and a label, or a label that it does not know."""
    extra = config.get("addition_embed_type")
    if extra not in (None, "text"):
        raise ModelError(f"UNet of {source.where} wants additional embeddings ('{extra}'); choose another pipeline")
    kind, known = config.get("class_embed_type"), config.get("num_class_embeds")
    if kind not in (None, "timestep"):
        raise ModelError(
            f"UNet of {source.where} takes class labels as '{kind}' embeddings; choose one that takes numbers, such as "
            f"text2earth"
        )
    if label and kind is None and known is None:
        raise OptionError(f"option unet_class_label {label}: UNet of {source.where} takes no labels; leave it at 0")
    if known is not None and kind is None and not 0 <= label < known:
        raise OptionError(f"option unet_class_label {label}: UNet of {source.where} knows the labels 0 to {known - 1}")


def _check_codec(source: Source, config: dict[str, Any], codec: Codec) -> None:
    """Refuse latents that are not those which the UNet was trained on."""
    remedy = (
        f"choose codec 'pretrained', or 'inflated' with the pipeline's own autoencoder (pretrained: {source.place}, "
        f"subfolder: vae)"
    )
    vae = codec.autoencoder()
    if vae is None:
        raise ModelError(
            f"{source.where} wants latents of its own autoencoder, but codec '{codec.name}' is no AutoencoderKL; "
            f"{remedy}, or a preset that is trained from scratch, such as tiny"
        )
    wanted, given = int(config["in_channels"]), codec.latent_channels
    if wanted != given:
        raise ModelError(
            f"UNet of {source.where} takes {wanted} channels, but codec '{codec.name}' gives {given}; {remedy}"
        )
    own = source.config("vae")
    wanted_scale = float(own.get("scaling_factor", 0.18215))
    scale = float(vae.config.scaling_factor)
    if not math.isclose(wanted_scale, scale, rel_tol=_SCALE_TOLERANCE):
        raise ModelError(
            f"UNet of {source.where} was trained on latents scaled by {wanted_scale:g}, but codec '{codec.name}' "
            f"scales by {scale:.5g}: its latents are others; {remedy}"
        )


def _side(source: Source, config: dict[str, Any], codec: Codec, size: int) -> int:
    side, least = size // codec.factor, 2 ** (len(config["block_out_channels"]) - 1)
    if side % least:
        raise ModelError(
            f"latents of {side}x{side} cannot be halved as often as the UNet of {source.where} does; set data.size to "
            f"a multiple of {codec.factor * least}"
        )
    return side


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
        unet_class_label: Label for a UNet that takes labels.

    Raises:
        OptionError: If there is no such preset, or the options contradict each other.
        ModelError: If the preset is a folder that does not exist.
    """

    preset: str = "tiny"
    prediction: Prediction | None = None
    lora: LoraOptions | None = None
    unet_class_label: int = 0

    def __post_init__(self) -> None:
        """Refuse a preset that there is not, and options of pretrained models for one from scratch."""
        pretrained_source(self.preset)
        given = [name for name, value in (("lora", self.lora), ("unet_class_label", self.unet_class_label)) if value]
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
            "unet_class_label": self.unet_class_label,
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
            return replace(DiffusionModel.load(folder), unet_class_label=self.unet_class_label)
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
        model = load_pretrained(self.source, codec, size, self.unet_class_label)
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
