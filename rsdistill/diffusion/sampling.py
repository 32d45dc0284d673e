"""Sampling shared out to processes, and kept batch by batch, so that a kill loses one batch at most."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import lightning
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from rsdistill.diffusion.guidance import GuidanceOptions, guide
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.parameterization import predicted_x0
from rsdistill.errors import ArtifactError, OptionError, storage_errors
from rsdistill.training.trainer import TrainerOptions, predict, resolve_device
from rsdistill.utils.io import complete_file

SchedulerName = Literal["model", "ddim", "dpmsolver++", "ddpm"]
_KINDS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "ddpm": DDPMScheduler,
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


@dataclass(frozen=True)
class SamplingOptions:
    """How tiles are drawn.

    Attributes:
        steps: Scheduler steps.
        guidance_scale: Classifier-free guidance scale; 1 turns it off.
        batch: Samples drawn at a time; it does not change the result.
        scheduler: Scheduler of diffusers on the noise schedule of the model; ``model`` is the model's own.
        strength: Below 1, sampling begins at the prototype with this share of the noise instead of at noise
            alone: the image-to-image style guidance of older methods. The first steps are left out.
        guidance: Prototype guidance.
    """

    RENAMED: ClassVar[dict[str, str]] = {"text_scale": "guidance_scale"}

    steps: Annotated[int, Field(ge=1)] = 25
    guidance_scale: Annotated[float, Field(ge=1)] = 1.5
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
    if options.guidance_scale == 1.0:
        return model.predict(latents, timestep, text)
    both = torch.cat([empty.expand_as(text), text])
    told = torch.arange(len(both), device=both.device) >= len(text)
    without, with_text = model.predict(latents.repeat(2, 1, 1, 1), timestep, both, told).chunk(2)
    combined: torch.Tensor = without + options.guidance_scale * (with_text - without)
    return combined


_LATENTS = "latents"


@dataclass(frozen=True, eq=False)
class Request:
    """Latents to draw.

    Attributes:
        prompts: One text a sample.
        seeds: One seed a sample.
        prototypes: Guiding latents, (n, C, h, w).
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    prototypes: torch.Tensor

    def part(self, start: int, size: int) -> Request:
        """So many samples from a position on."""
        these = slice(start, start + size)
        return Request(self.prompts[these], self.seeds[these], self.prototypes[these])


def draw(model: DiffusionModel, request: Request, options: SamplingOptions, progress: bool = True) -> torch.Tensor:
    """Draw in this process alone: latents (n, C, h, w) on the CPU."""
    return sample(model, request.prompts, request.seeds, request.prototypes, options, progress)


def draw_into(
    folder: Path, model: DiffusionModel, request: Request, options: SamplingOptions, trainer: TrainerOptions
) -> None:
    """Draw what is not yet in a folder, shared out to the processes; the batches are those of :func:`draw`.

    Args:
        folder: A folder of this request's own that all processes see.
        model: A trained model.
        request: What to draw.
        options: Steps, scales, batch.
        trainer: Devices and strategy. Sampling is in full precision, whatever training was in.

    Raises:
        StorageError: If the folder cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    left = [start for start in _starts(request, options) if not _file(folder, start).exists()]
    # Also where nothing is left: the processes wait for each other there, so all files exist before any is read.
    predict(_Drawing(folder, model, request, options), left, replace(trainer, precision="32-true"), "sample")
    model.to(resolve_device(trainer))


def drawn_in(folder: Path, request: Request, options: SamplingOptions) -> torch.Tensor:
    """What :func:`draw_into` drew: latents (n, C, h, w) on the CPU.

    Raises:
        ArtifactError: If a batch is missing or cannot be read.
    """
    try:
        return torch.cat([load_file(_file(folder, start))[_LATENTS] for start in _starts(request, options)])
    except (OSError, KeyError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} holds not all that was to be drawn ({error}); delete it to draw again, and where several "
            "machines draw, give a folder that all of them share"
        ) from error


def _starts(request: Request, options: SamplingOptions) -> range:
    return range(0, len(request.prompts), options.batch)


def _file(folder: Path, start: int) -> Path:
    return folder / f"from_{start:06d}.safetensors"


class _Drawing(lightning.LightningModule):
    """Draws batches, each given by the position of its first sample."""

    def __init__(self, folder: Path, model: DiffusionModel, request: Request, options: SamplingOptions) -> None:
        super().__init__()
        self._folder, self._model, self._request, self._options = folder, model, request, options
        # Registered, so that they are moved to the device of each process.
        self.parts = nn.ModuleList([model.unet, model.text_encoder])

    def predict_step(self, start: int, *_: int) -> None:
        latents = draw(self._model, self._request.part(start, self._options.batch), self._options, progress=False)
        path = _file(self._folder, start)
        with complete_file(path) as partial:
            save_file({_LATENTS: latents.contiguous()}, partial)
