"""Pipelines of Stable Diffusion's layouts at reduced width, built from configurations, as a hub would hold them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from rsdistill.diffusion.text import build_tokenizer

PROMPTS = ["A satellite image of forest", "A satellite image of beach", "A satellite image of solar farm"]
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# Widths that group norm of 32 groups allows at the finest resolution; the real ones are 320, 640, 1280, 1280.
WIDTHS = (32, 32, 64, 64)

# A tiny autoencoder of two resolutions in place of four.
TINY = {
    "latent_channels": 4,
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}


def tiny_weights(folder, **config):
    """The folder of a tiny autoencoder in diffusers' format, with weights that nothing trained."""
    torch.manual_seed(0)
    AutoencoderTiny(**TINY, **config).save_pretrained(folder)
    return folder


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
    """The same in diffusers' format: that of ``sd15`` and the index of ``text2earth`` as the hub holds them."""
    build_pipeline(kind).save_pretrained(folder, safe_serialization=True)
    if kind == "sd15":
        _as_in_2022(folder)
    if kind == "text2earth":
        index = folder / "model_index.json"
        parts = json.loads(index.read_text("utf-8")) | {"_class_name": "Text2EarthDiffusionPipeline"}
        index.write_text(json.dumps(parts | {"scheduler": ["diffusers", "PNDMScheduler"]}), "utf-8")
    return folder


def _as_in_2022(folder: Path) -> None:
    """Rewrite what libraries have since come to save otherwise, and add a part that is not used."""
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer.json").read_text("utf-8"))["model"]
    merges = [" ".join(pair) for pair in tokenizer["merges"]]
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tokenizer["vocab"]), "utf-8")
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    path = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    save_file(weights | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path, {"format": "pt"})
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    weights = load_file(path)
    for new, old in older.items():
        weights = {name.replace(new, old) if "attentions" in name else name: w for name, w in weights.items()}
    save_file(weights, path, {"format": "pt"})
    for part, lost in (("vae", ("scaling_factor",)), ("unet", ("class_embed_type", "addition_embed_type"))):
        config = json.loads((folder / part / "config.json").read_text("utf-8"))
        kept = {name: value for name, value in config.items() if name not in lost}
        (folder / part / "config.json").write_text(json.dumps(kept), "utf-8")
    index = folder / "model_index.json"
    parts = json.loads(index.read_text("utf-8"))
    parts |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index.write_text(json.dumps(parts), "utf-8")
