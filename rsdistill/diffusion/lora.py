"""Low-rank adaptation (LoRA, Hu et al. 2022) through peft, in the files that stock diffusers loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, is_peft_version
from pydantic import Field
from safetensors import SafetensorError
from torch import nn

from rsdistill.diffusion.model import DiffusionModel
from rsdistill.errors import ModelError, OptionError

WEIGHTS = "pytorch_lora_weights.safetensors"
_TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class LoraOptions:
    """Which low-rank weights are learned beside the frozen ones.

    Attributes:
        rank: Rank of each update.
        alpha: Updates count alpha / rank; None for the rank itself.
        targets: Ends of the names of the UNet's layers that get an update.
        dropout: Share of a layer's inputs that its update does not see in training.
        text_encoder: Whether the attention of the text encoder gets updates too.
    """

    rank: Annotated[int, Field(ge=1)] = 4
    alpha: Annotated[int, Field(ge=1)] | None = None
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("to_q", "to_k", "to_v", "to_out.0")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    text_encoder: bool = False


def add_lora(model: DiffusionModel, options: LoraOptions, seed: int) -> DiffusionModel:
    """Give a model low-rank updates, which begin at zero and are then all that trains.

    Args:
        model: A pretrained model, changed in place.
        options: Rank and layers.
        seed: Seed of the initial weights.

    Raises:
        OptionError: If a target names no linear layer or convolution of the UNet.
        ModelError: If the text encoder is to get updates and transformers asks for a newer peft than is installed.
    """
    if options.text_encoder:
        check_peft()
    for target in options.targets:
        _check_target(model.unet, target)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.unet.add_adapter(_config(options, options.targets))
        if options.text_encoder:
            model.text_encoder.add_adapter(_config(options, _TEXT_TARGETS))
    model.trains = "lora"
    for part in (model.unet, model.text_encoder):
        part.requires_grad_(False)
    return model


def save_lora(model: DiffusionModel, folder: str | Path) -> Path:
    """Write the low-rank weights alone, as ``load_lora_weights`` of a stock pipeline reads them."""
    from peft import get_peft_model_state_dict

    layers: dict[str, Any] = {}
    for name, part in (("unet", model.unet), ("text_encoder", model.text_encoder)):
        configs = getattr(part, "peft_config", None)
        if configs:
            adapter = next(iter(configs))
            weights = get_peft_model_state_dict(part, adapter_name=adapter)
            layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(weights)
            # A stock pipeline would go on dropping, since it does not put what it loads into evaluation mode.
            told = {**configs[adapter].to_dict(), "lora_dropout": 0.0, "inference_mode": True}
            layers[f"{name}_lora_adapter_metadata"] = told
    StableDiffusionPipeline.save_lora_weights(Path(folder), safe_serialization=True, **layers)
    return Path(folder)


def load_lora(model: DiffusionModel, folder: str | Path) -> DiffusionModel:
    """Give a pretrained model the low-rank weights that :func:`save_lora` wrote.

    Raises:
        ModelError: If the folder holds none, or they do not fit the model.
    """
    folder = Path(folder)
    if not (folder / WEIGHTS).exists():
        raise ModelError(f"{folder} holds no LoRA ({WEIGHTS} is missing); train one first")
    try:
        model.pipeline().load_lora_weights(folder, weight_name=WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"LoRA in {folder} cannot be read ({' '.join(str(error).split())}); train it again") from error
    model.trains = "lora"
    for part in (model.unet, model.text_encoder):
        part.eval().requires_grad_(False)
    return model


@contextmanager
def repeatable_dropout(module: nn.Module, seed: int) -> Iterator[None]:
    """Let what a module drops depend on the seed alone, so that a resumed training drops the same."""
    if not any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules()):
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _config(options: LoraOptions, targets: Sequence[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=options.rank,
        lora_alpha=options.rank if options.alpha is None else options.alpha,
        target_modules=list(targets),
        lora_dropout=options.dropout,
        init_lora_weights="gaussian",
    )


def check_peft() -> None:
    """Refuse a peft that transformers would refuse, which adds LoRA to the text encoder; diffusers has its own way.

    Raises:
        ModelError: If transformers asks for a newer peft than is installed.
    """
    from transformers.integrations import peft as integration

    least = getattr(integration, "MIN_PEFT_VERSION", None)
    if least is not None and is_peft_version("<", least):
        raise ModelError(
            f"lora.text_encoder: transformers {version('transformers')} asks for peft {least} or later, and "
            f"{version('peft')} is installed; update peft, install an older transformers, or set it to false"
        )


def _check_target(unet: nn.Module, target: str) -> None:
    layers = [name for name, part in unet.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    if not any(name == target or name.endswith(f".{target}") for name in layers):
        ends = sorted({name.split(".", 1)[-1].rsplit("transformer_blocks.", 1)[-1] for name in layers})
        raise OptionError(
            f"option lora.targets: no layer of the UNet ends in '{target}'; its layers end in such names as "
            f"{', '.join(ends[:4])}, to_q, to_out.0"
        )
