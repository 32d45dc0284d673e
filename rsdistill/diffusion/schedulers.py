"""Schedulers of diffusers that a trained model can be sampled with, and their stochastic noise."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

SchedulerName = Literal["model", "ddim", "dpmsolver++", "ddpm", "pndm"]
_KINDS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "ddpm": DDPMScheduler,
    "pndm": PNDMScheduler,
}


def build_scheduler(own: Any, name: SchedulerName, steps: int, device: torch.device) -> Any:
    """A scheduler of the kind asked for, on the noise schedule that a model was trained with.

    Args:
        own: The model's own scheduler.
        name: Kind; ``model`` for the model's own.
        steps: Inference steps to set.
        device: Where the latents are.

    Returns:
        A fresh diffusers scheduler with its timesteps set.
    """
    scheduler = deepcopy(own) if name == "model" else _KINDS[name].from_config(own.config)
    scheduler.set_timesteps(steps, device=device)
    return scheduler


def tail_of(scheduler: Any, steps: int, strength: float) -> torch.Tensor:
    """The last share ``strength`` of a scheduler's timesteps, as stock image-to-image pipelines take it."""
    skipped = max(steps - min(int(steps * strength), steps), 0) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    timesteps: torch.Tensor = scheduler.timesteps[skipped:]
    return timesteps


def step_arguments(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """What a stochastic scheduler's step takes beside output, timestep and sample: a generator a sample."""
    return {"generator": list(generators)} if "generator" in inspect.signature(scheduler.step).parameters else {}
