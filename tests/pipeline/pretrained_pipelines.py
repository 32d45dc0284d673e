"""Pipelines of Stable Diffusion's layouts at reduced width, built from configurations, as a hub would hold them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from rsdistill.diffusion.text import build_tokenizer

PROMPTS = ["A satellite image of forest", "A satellite image of beach", "A satellite image of solar farm"]
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# Widths that group norm of 32 groups allows at the finest resolution; the real ones are 320, 640, 1280, 1280.
WIDTHS = (32, 32, 64, 64)


def _text_encoder(tokenizer, width, layers, heads, activation):
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=77,
            hidden_act=activation,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _vae(levels=3):
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.18215,
    )


def _unet(text_width, **others):
    """The UNet of both versions: three levels that attend to the text, one that does not, two layers each."""
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        block_out_channels=WIDTHS,
        layers_per_block=2,
        cross_attention_dim=text_width,
        norm_num_groups=32,
        flip_sin_to_cos=True,
        freq_shift=0,
        **others,
    )


def build_pipeline(kind, seed=0):
    """A pipeline of kind ``sd15``, ``sd2`` or ``text2earth``, with random weights."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(PROMPTS, 77)
    if kind == "sd15":
        text_encoder = _text_encoder(tokenizer, 24, 12, 12, "quick_gelu")
        unet = _unet(24, attention_head_dim=8)
        scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    else:
        text_encoder = _text_encoder(tokenizer, 32, 23, 16, "gelu")
        labels = {"class_embed_type": "timestep"} if kind == "text2earth" else {}
        # Heads a level, as the checkpoints have it under a name that diffusers keeps for their sake.
        unet = _unet(32, attention_head_dim=(1, 2, 4, 4), use_linear_projection=True, **labels)
        if kind == "text2earth":
            scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        else:
            scheduler = EulerDiscreteScheduler(**NOISE, prediction_type="v_prediction", steps_offset=1)
    # A fresh UNet ends in a layer of zeros' neighbourhood; texts and labels are to matter visibly.
    for parameter in unet.conv_out.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_pipeline(kind, folder: Path) -> Path:
    """The same, in diffusers' format."""
    build_pipeline(kind).save_pretrained(folder, safe_serialization=True)
    return folder
