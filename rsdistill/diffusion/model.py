"""The diffusion model: the component set of ``diffusers.StableDiffusionPipeline``, where the codec is a ``vae``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from rsdistill.codecs.base import Codec
from rsdistill.diffusion.presets import PRESETS
from rsdistill.diffusion.text import build_text_encoder, build_tokenizer
from rsdistill.errors import ModelError, UnknownNameError
from rsdistill.utils.io import write_json

Prediction = Literal["v_prediction", "epsilon"]
Trains = Literal["all", "unet", "lora"]
_GROUPS = 8
# Names the parts of a model without a vae, whose folder no stock pipeline could load.
PARTS = "model_parts.json"
_FORMAT = "rsdistill-diffusion/1"
_PARTS: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
    "unet": UNet2DConditionModel,
    "scheduler": DDIMScheduler,
}
_NO_VAE = "its codec is no AutoencoderKL"


@dataclass
class DiffusionModel:
    """Text-to-image latent diffusion for any codec.

    Attributes:
        vae: The codec's autoencoder; None where it is none, and then there is no stock pipeline.
        text_encoder: Prompts to embeddings.
        tokenizer: Prompts to tokens.
        unet: The denoiser.
        scheduler: Noise schedule and prediction type.
        trains: What training changes: ``all`` of UNet and text encoder, the ``unet`` alone, or the ``lora`` alone.
        unet_class_label: Label of samples that have their text, for a UNet that takes labels; 0 says nothing.
    """

    vae: AutoencoderKL | None
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    trains: Trains = "all"
    unet_class_label: int = 0

    @classmethod
    def from_scratch(
        cls,
        preset: str,
        codec: Codec,
        prompts: Iterable[str],
        size: int,
        prediction: Prediction,
        seed: int,
        captions: Iterable[str] = (),
    ) -> DiffusionModel:
        """Build an untrained model whose shape is a preset's.

        Args:
            preset: One of :data:`rsdistill.diffusion.presets.PRESETS`.
            codec: Fitted codec whose latents it will model.
            prompts: Prompts of the classes, whose words the tokenizer knows.
            size: Side of the chips in pixels.
            prediction: What the UNet predicts.
            seed: Seed of the initial weights.
            captions: Further texts whose words the tokenizer knows.

        Raises:
            UnknownNameError: If the preset is unknown.
            ModelError: If the chips are too small for the preset.
        """
        if preset not in PRESETS:
            raise UnknownNameError("diffusion preset", preset, PRESETS)
        shape = PRESETS[preset]
        side, depth = size // codec.factor, len(shape.channels)
        if side % 2 ** (depth - 1):
            raise ModelError(
                f"latents of {side}x{side} cannot be halved {depth - 1} time(s) for preset '{preset}'; "
                f"set data.size to a multiple of {codec.factor * 2 ** (depth - 1)}"
            )
        tokenizer = build_tokenizer(prompts, shape.max_tokens, captions)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            text_encoder = build_text_encoder(tokenizer, shape.text_width, shape.text_layers, shape.heads)
            unet = UNet2DConditionModel(
                sample_size=side,
                in_channels=codec.latent_channels,
                out_channels=codec.latent_channels,
                block_out_channels=shape.channels,
                layers_per_block=shape.layers,
                # Attention at the finest resolution costs a third of the time of a step.
                down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (depth - 1)),
                up_block_types=(*("CrossAttnUpBlock2D",) * (depth - 1), "UpBlock2D"),
                cross_attention_dim=shape.text_width,
                attention_head_dim=shape.heads,
                norm_num_groups=_GROUPS,
                # The prompt as a whole also scales and shifts every block: without it the class is learned slowly.
                addition_embed_type="text",
                addition_embed_type_num_heads=shape.heads,
                resnet_time_scale_shift="scale_shift",
            )
        return cls(codec.autoencoder(), text_encoder, tokenizer, unet, _scheduler(prediction))

    @property
    def device(self) -> torch.device:
        """Where the UNet's weights are."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    @property
    def prediction(self) -> str:
        """What the UNet predicts: ``epsilon`` or ``v_prediction``."""
        return str(self.scheduler.config.prediction_type)

    def to(self, device: torch.device) -> DiffusionModel:
        """Move the trainable parts to a device."""
        self.unet.to(device)
        encoder: nn.Module = self.text_encoder
        encoder.to(device)
        return self

    @property
    def takes_labels(self) -> bool:
        """Whether the UNet wants a class label beside the text, as Text2Earth's does for the zoom level."""
        return getattr(self.unet, "class_embedding", None) is not None

    def learned(self) -> list[nn.Parameter]:
        """The weights that training changes, as :attr:`trains` says."""
        parts = {"unet": self.unet, "text_encoder": self.text_encoder}
        return [
            parameter
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
            if self.trains in ("all", part) or (self.trains == "lora" and "lora_" in name)
        ]

    def prepare_training(self) -> None:
        """Let what is learned train, and freeze all else."""
        for part in (self.unet, self.text_encoder):
            part.train()
            part.requires_grad_(False)
        for parameter in self.learned():
            parameter.requires_grad_(True)

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, told: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Output of the UNet, the one place that calls it.

        Args:
            noisy: Noisy latents z_t, (N, C, h, w).
            timesteps: Timesteps, int64 (N,) or ().
            text: Text embeddings, (N, tokens, width).
            told: Which samples have their text, bool (N,): the others are unconditional, so their label is 0
                too. None for all.

        Returns:
            What :attr:`prediction` says, (N, C, h, w).
        """
        labels = None
        if self.takes_labels:
            labels = torch.full((len(noisy),), self.unet_class_label, device=noisy.device)
            labels = labels if told is None else labels * told
        output: torch.Tensor = self.unet(noisy, timesteps, text, class_labels=labels).sample
        return output

    def tokenize(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts to token ids, int64 (n, tokens); longer ones are cut as stock pipelines do."""
        ids: torch.Tensor = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts to text embeddings (n, tokens, width)."""
        hidden: torch.Tensor = self.text_encoder(self.tokenize(prompts).to(self.device)).last_hidden_state
        return hidden

    def pipeline(self) -> StableDiffusionPipeline:
        """The same parts as a stock diffusers pipeline.

        Raises:
            ModelError: If the codec is no autoencoder that such a pipeline knows.
        """
        if self.vae is None:
            raise ModelError(f"there is no stock pipeline for this model: {_NO_VAE}; draw with rsdistill's samplers")
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def save(self, folder: str | Path) -> Path:
        """Write the model in diffusers' folder format; a stock pipeline loads it.

        Without a ``vae`` the same folders of the other parts are written, beside a file that names them.
        """
        folder = Path(folder)
        if self.vae is not None:
            self.pipeline().save_pretrained(folder, safe_serialization=True)
            return folder
        for name in _PARTS:
            getattr(self, name).save_pretrained(folder / name)
        write_json(folder / PARTS, {"format": _FORMAT, "parts": list(_PARTS)})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> DiffusionModel:
        """Read a model that :meth:`save` wrote, or a pipeline in diffusers' format.

        Raises:
            ModelError: If the folder holds none, or it cannot be read.
        """
        folder = Path(folder)
        stock = (folder / "model_index.json").exists()
        if not stock and not (folder / PARTS).exists():
            raise ModelError(f"{folder} holds no diffusion model (model_index.json is missing); train one first")
        parts: dict[str, Any] = {"vae": AutoencoderKL, **_PARTS} if stock else _PARTS
        try:
            loaded = {name: kind.from_pretrained(folder / name, local_files_only=True) for name, kind in parts.items()}
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"diffusion model in {folder} cannot be read ({error}); train it again") from error
        for part in loaded.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        return cls(**{"vae": None, **loaded})


def _scheduler(prediction: Prediction) -> DDIMScheduler:
    # Zero terminal SNR lets v prediction learn mean brightness; with epsilon it would divide by zero.
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=prediction == "v_prediction",
    )
