"""Sampling latents from a diffusion model, guided by prototypes; the schedulers stay diffusers' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from tqdm.auto import tqdm

from rsdistill.diffusion.formulas import predicted_x0
from rsdistill.diffusion.guidance import GuidanceOptions, guide
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.schedulers import SchedulerName, build_scheduler, step_arguments, tail_of
from rsdistill.errors import OptionError


@dataclass(frozen=True)
class SamplingOptions:
    """How tiles are drawn.

    Attributes:
        steps: Scheduler steps.
        text_scale: Classifier-free guidance scale; 1 turns it off.
        batch: Samples drawn at a time; it does not change the result.
        scheduler: Scheduler of diffusers on the noise schedule of the model; ``model`` is the model's own.
        strength: Below 1, sampling begins at the prototype with this share of the noise instead of at noise
            alone: the image-to-image style guidance of older methods. The first steps are left out.
        guidance: Prototype guidance.
    """

    steps: Annotated[int, Field(ge=1)] = 25
    text_scale: Annotated[float, Field(ge=1)] = 1.5
    batch: Annotated[int, Field(ge=1)] = 64
    scheduler: SchedulerName = "model"
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    guidance: GuidanceOptions = field(default_factory=GuidanceOptions)


@torch.no_grad()
def sample(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    prototypes: torch.Tensor | None = None,
    options: SamplingOptions | None = None,
    progress: bool = True,
) -> torch.Tensor:
    """Draw one latent for each prompt.

    Each sample has a random generator of its own, so the batch that it is drawn in does not matter.

    Args:
        model: A trained model.
        prompts: One text a sample.
        seeds: One seed a sample.
        prototypes: Guiding latents (n, C, h, w); None draws from text alone.
        options: Steps, scales, batch.
        progress: Whether to show a progress bar.

    Returns:
        Clean latents (n, C, h, w) on the CPU.

    Raises:
        OptionError: If there are not as many seeds, or prototypes, as prompts.
    """
    if len(seeds) != len(prompts) or (prototypes is not None and len(prototypes) != len(prompts)):
        raise OptionError(f"{len(prompts)} prompts need as many seeds and prototypes; give one of each a sample")
    options = options or SamplingOptions()
    if options.strength < 1.0 and prototypes is None:
        raise OptionError(f"sampling.strength {options.strength} begins at prototypes; give some, or set it to 1")
    side = model.unet.config.sample_size
    shape = (model.unet.config.in_channels, side, side)
    texts = list(dict.fromkeys([*prompts, ""]))
    embeddings = dict(zip(texts, model.embed(texts), strict=True))
    drawn = []
    with tqdm(total=len(prompts), desc="sample", unit="tile", leave=False, disable=not progress) as bar:
        for start in range(0, len(prompts), options.batch):
            part = slice(start, start + options.batch)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
            noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(model.device)
            text = torch.stack([embeddings[prompt] for prompt in prompts[part]])
            guides = None if prototypes is None else prototypes[part].to(model.device)
            drawn.append(_denoise(model, noise, generators, text, embeddings[""], guides, options).cpu())
            bar.update(len(text))
    return torch.cat(drawn)


def _denoise(
    model: DiffusionModel,
    noise: torch.Tensor,
    generators: Sequence[torch.Generator],
    text: torch.Tensor,
    empty: torch.Tensor,
    prototypes: torch.Tensor | None,
    options: SamplingOptions,
) -> torch.Tensor:
    scheduler = build_scheduler(model.scheduler, options.scheduler, options.steps, model.device)
    timesteps, latents = scheduler.timesteps, noise * scheduler.init_noise_sigma
    if options.strength < 1.0 and prototypes is not None:
        timesteps = tail_of(scheduler, options.steps, options.strength)
        latents = scheduler.add_noise(prototypes, noise, timesteps[:1].repeat(len(noise)))
    extra = step_arguments(scheduler, generators)
    for step, timestep in enumerate(timesteps):
        output = _predict(model, scheduler.scale_model_input(latents, timestep), timestep, text, empty, options)
        if prototypes is not None and options.guidance.active(step, len(timesteps)):
            alpha_bar = scheduler.alphas_cumprod[int(timestep)].to(latents)
            clean = predicted_x0(output, latents, alpha_bar, model.prediction)
            latents = guide(latents, clean, prototypes, alpha_bar, options.guidance)
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    drawn: torch.Tensor = latents
    return drawn


def _predict(
    model: DiffusionModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    text: torch.Tensor,
    empty: torch.Tensor,
    options: SamplingOptions,
) -> torch.Tensor:
    """Model output with classifier-free guidance (Ho and Salimans 2022)."""
    if options.text_scale == 1.0:
        return model.predict(latents, timestep, text)
    both = torch.cat([empty.expand_as(text), text])
    told = torch.arange(len(both), device=both.device) >= len(text)
    without, with_text = model.predict(latents.repeat(2, 1, 1, 1), timestep, both, told).chunk(2)
    combined: torch.Tensor = without + options.text_scale * (with_text - without)
    return combined
