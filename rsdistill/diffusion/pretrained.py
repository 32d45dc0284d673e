"""Diffusion models that begin with a pretrained Stable Diffusion pipeline."""

from __future__ import annotations

import math
from typing import Any

from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from rsdistill.codecs.base import Codec
from rsdistill.codecs.sources import Source
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.errors import ModelError, OptionError

# How far a codec's scale of latents may be from the pipeline's own.
_SCALE_TOLERANCE = 1e-3


def load_pretrained(source: Source, codec: Codec, size: int, unet_label: int = 0) -> DiffusionModel:
    """The denoiser and text encoder of a pipeline, with a codec in place of its autoencoder.

    Training changes the UNet alone; :func:`rsdistill.diffusion.lora.add_lora` narrows that to low-rank weights.

    Args:
        source: The pipeline.
        codec: Fitted codec whose latents are the pipeline's own: ``pretrained``, or ``inflated`` from its ``vae``.
        size: Side of the chips in pixels.
        unet_label: Label given to a UNet that takes labels beside the text; 0 says nothing.

    Raises:
        ModelError: If the pipeline cannot be read, is of another layout, or does not fit codec or size.
        OptionError: If a label is given to a UNet that takes none, or that it does not know.
    """
    source.check()
    config = source.config("unet")
    _check_unet(source, config, unet_label)
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
    model = DiffusionModel(
        codec.autoencoder(), text_encoder, tokenizer, unet, _schedule(source), trains="unet", unet_label=unet_label
    )
    for part in (unet, text_encoder):
        part.eval().requires_grad_(False)
    return model


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
        raise OptionError(f"option unet_label {label}: UNet of {source.where} takes no labels; leave it at 0")
    if known is not None and kind is None and not 0 <= label < known:
        raise OptionError(f"option unet_label {label}: UNet of {source.where} knows the labels 0 to {known - 1}")


def _check_codec(source: Source, config: dict[str, Any], codec: Codec) -> None:
    """Refuse latents that are not those which the UNet was trained on."""
    remedy = (
        f"choose codec 'pretrained', or 'inflated' with the pipeline's own autoencoder (pretrained: {source.place}, "
        f"subfolder: vae)"
    )
    wanted, given = int(config["in_channels"]), codec.latent_channels
    if wanted != given:
        raise ModelError(
            f"UNet of {source.where} takes {wanted} channels, but codec '{codec.name}' gives {given}; {remedy}"
        )
    own = source.config("vae")
    wanted_scale = float(own.get("scaling_factor", 0.18215))
    scale = float(codec.autoencoder().config.scaling_factor)
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
