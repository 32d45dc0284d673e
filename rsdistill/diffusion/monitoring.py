"""Monitoring of a denoiser while it trains: validation losses and pictures of what it draws."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.codecs.store import LatentStore
from rsdistill.diffusion.guidance import GuidanceOptions
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.parameterization import Draw
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.diffusion.teacher import ConsistencyOptions, LatentTeacher, judge
from rsdistill.imaging.composites import stretch_limits, to_rgb
from rsdistill.imaging.normalisation import to_sensor
from rsdistill.training.trainer import derived_seed, step_generator
from rsdistill.utils.io import complete_file

_STREAM = 22
# Bounds of the levels of noise that the teacher's accuracy is logged for, as shares ᾱ of the signal.
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class WatchOptions:
    """What is logged while the denoiser trains, where there is a folder for its log.

    Validation and pictures take time but do not change the weights.

    Attributes:
        validation: Steps between two validation losses, at noise and timesteps that never change; the last
            step has one too. 0 for none.
        draws: Noisy latents that a validation loss is the mean of; where fewer latents are held out, each is
            taken several times, with other noise.
        samples: Steps between two pictures of tiles drawn from text alone with the averaged weights, always
            from the same noise. 0 for none.
        columns: Tiles of each class in a picture.
    """

    validation: Annotated[int, Field(ge=0)] = 250
    draws: Annotated[int, Field(ge=1)] = 256
    samples: Annotated[int, Field(ge=0)] = 0
    columns: Annotated[int, Field(ge=1)] = 6


class Monitored(Protocol):
    """What is read of the module that trains, a LightningModule of :mod:`rsdistill.diffusion.denoising`."""

    seed: int
    model: DiffusionModel
    alpha_bar: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Where it trains."""

    @property
    def global_rank(self) -> int:
        """Number of its process."""

    @property
    def teacher(self) -> LatentTeacher | None:
        """The frozen classifier of latents."""

    @property
    def averages(self) -> bool:
        """Whether it keeps a moving average of its weights."""

    def swapped_weights(self, averaged: bool) -> AbstractContextManager[None]:
        """The model as it is used, with averaged or live weights."""

    def denoise(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted squared error of each sample (n,), and its clean estimate (n, C, h, w)."""


class Validation:
    """Figures of a denoiser on held-out latents, shown with their class prompts.

    The timesteps are spread evenly over all that there are, so that every level of noise is seen.
    Called with the number of steps done, it gives:

    - ``val_denoising`` and ``val_denoising_averaged``: the denoising loss, weighted as in training, of the
      live and of the averaged weights;
    - ``val_consistency``: the consistency loss, where it is on;
    - ``val_teacher_oa_0.25_to_0.50`` and the like, where there is a teacher: the share of clean estimates that
      it takes for their class, by ᾱ of the noisy latent. These two are of the averaged weights, if there are such.

    Args:
        module: The module that trains.
        latents: The latent store, which holds validation latents.
        draws: Noisy latents that the figures are means of.
        most: Noisy latents that pass the model at a time.
        consistency: The consistency loss of the training.

    Attributes:
        draw: The noisy latents.
    """

    def __init__(
        self, module: Monitored, latents: LatentStore, draws: int, most: float, consistency: ConsistencyOptions
    ) -> None:
        self._module, self._consistency = module, consistency
        generator = step_generator(module.seed, _STREAM)
        held, count, steps = latents.positions("val"), draws, len(module.alpha_bar)
        # In random order, so that timesteps and classes have nothing to do with each other.
        batch = latents.read(np.resize(held[torch.randperm(len(held), generator=generator).numpy()], count))
        posterior, noise = torch.randn((2, *batch.mean.shape), generator=generator)
        self.draw = Draw(
            clean=batch.mean + torch.exp(0.5 * batch.logvar) * posterior,
            noise=noise,
            timestep=((torch.arange(count) + 0.5) * steps / count).long(),
            text=batch.label,
            told=torch.ones(count, dtype=torch.bool),
            label=batch.label,
        )
        self._parts = math.ceil(count / most)

    def __call__(self, step: int) -> dict[str, float]:
        """Figures after so many steps."""
        draw = self.draw.to(self._module.device)
        error, estimate = self._denoised(draw, averaged=False)
        figures = {"val_denoising": float(error.mean())}
        if self._module.averages:
            error, estimate = self._denoised(draw, averaged=True)
            figures["val_denoising_averaged"] = float(error.mean())
        return figures | self._judged(draw, estimate)

    def _denoised(self, draw: Draw, averaged: bool) -> tuple[torch.Tensor, torch.Tensor]:
        with self._module.swapped_weights(averaged):
            found = [self._module.denoise(draw.part(number, self._parts)) for number in range(self._parts)]
        error, estimate = (torch.cat(values) for values in zip(*found, strict=True))
        return error, estimate

    @torch.no_grad()
    def _judged(self, draw: Draw, estimate: torch.Tensor) -> dict[str, float]:
        teacher, options = self._module.teacher, self._consistency
        if teacher is None:
            return {}
        alpha_bar, figures = self._module.alpha_bar[draw.timestep], {}
        if options.weight:
            judged = judge(teacher, estimate, draw.clean, draw.label, alpha_bar, options)
            figures["val_consistency"] = float(judged.loss)
        right = teacher.to(estimate.device)(estimate).argmax(1) == draw.label
        for low, high in pairwise(_LEVELS):
            here = (alpha_bar >= low) & (alpha_bar < high)
            if here.any():
                figures[f"val_teacher_oa_{low:.2f}_to_{high:.2f}"] = float(right[here].float().mean())
        return figures


_GRID_STREAM = 23
_FOLDER = "samples"
# Few steps: the pictures are to show what is learned, not to be tiles.
_SAMPLING = SamplingOptions(steps=12, guidance_scale=2.5, scheduler="dpmsolver++", guidance=GuidanceOptions(scale=0.0))
# Latents that set black and white, the same in every picture.
_STRETCH = 64
# Inches of a picture with its gap and of the names; gap as a share of a picture.
_CELL, _MARGIN, _GAP, _DPI = 0.9, 2.0, 0.06, 144


class SampleGrid:
    """Draws some tiles of each class from text alone, always from the same noise, into ``samples/step_N.png``.

    Called with the number of steps done.

    Args:
        module: The module that trains; its averaged weights draw.
        latents: The latent store, whose codec decodes.
        prompts: One prompt a class.
        log: Folder of the log.
        columns: Tiles of each class.
    """

    def __init__(
        self, module: Monitored, latents: LatentStore, prompts: Sequence[str], log: Path, columns: int
    ) -> None:
        self._module, self._codec, self._prompts, self._log = module, latents.codec, list(prompts), log
        self._columns = columns
        real = self._decode(latents.read(latents.positions("train")[:_STRETCH]).mean)
        self._limits = stretch_limits(real, self._codec.bands)

    def __call__(self, step: int) -> dict[str, float]:
        """Draw after so many steps; there are no figures to log."""
        columns = self._columns
        prompts = [prompt for prompt in self._prompts for _ in range(columns)]
        seeds = [derived_seed(self._module.seed, _GRID_STREAM, number) for number in range(len(prompts))]
        with self._module.swapped_weights(averaged=True):
            drawn = sample(self._module.model, prompts, seeds, options=_SAMPLING, progress=False)
        if self._module.global_rank == 0:
            pictures = to_rgb(self._decode(drawn), self._codec.bands, limits=self._limits)
            grid = pictures.reshape(len(self._prompts), columns, *pictures.shape[1:])
            _write(self._log / _FOLDER / f"step_{step:06d}.png", grid, self._prompts, f"after {step} steps")
        return {}

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> NDArray[Any]:
        size = _SAMPLING.batch
        return np.concatenate([to_sensor(self._codec.decode(part), self._codec.bands) for part in latents.split(size)])


def _write(path: Path, grid: NDArray[np.uint8], names: Sequence[str], title: str) -> None:
    """Write a grid of pictures (rows, columns, H, W, 3), complete or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows, columns, height, width = grid.shape[:4]
    gap = max(1, round(_GAP * width))
    # One mosaic: an axis for each picture would be slow to draw and uneven.
    sheet = np.full((rows, height + gap, columns, width + gap, 3), 255, np.uint8)
    sheet[:, :height, :, :width] = grid.transpose(0, 2, 1, 3, 4)
    figure = Figure(figsize=(columns * _CELL + _MARGIN, rows * _CELL + 0.4), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet.reshape(rows * (height + gap), columns * (width + gap), 3), interpolation="nearest")
    axes.set_yticks(np.arange(rows) * (height + gap) + height / 2, [textwrap.fill(name, 20) for name in names])
    axes.tick_params(length=0, labelsize=7)
    axes.set(xticks=[])
    axes.set_title(title, fontsize=9)
    axes.spines[:].set_visible(False)
    with complete_file(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
