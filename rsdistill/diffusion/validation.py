"""Validation of a denoiser while it trains: always the same latents, noise and timesteps."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from rsdistill.codecs.store import LatentStore
from rsdistill.diffusion.consistency import judge
from rsdistill.diffusion.draws import Draw
from rsdistill.training import step_generator

if TYPE_CHECKING:
    from rsdistill.diffusion.denoising import DenoisingModule

_STREAM = 22
# Bounds of the levels of noise that the teacher's accuracy is told for, as shares ᾱ of the signal.
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


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
    """

    def __init__(self, module: DenoisingModule, latents: LatentStore) -> None:
        self._module, options = module, module.options
        generator = step_generator(module.seed, _STREAM)
        held, count, steps = latents.positions("val"), options.watch.draws, len(module.alpha_bar)
        # In random order, so that timesteps and classes have nothing to do with each other.
        batch = latents.read(np.resize(held[torch.randperm(len(held), generator=generator).numpy()], count))
        posterior, noise = torch.randn((2, *batch.mean.shape), generator=generator)
        self._draw = Draw(
            clean=batch.mean + torch.exp(0.5 * batch.logvar) * posterior,
            noise=noise,
            timestep=((torch.arange(count) + 0.5) * steps / count).long(),
            text=batch.label,
            told=torch.ones(count, dtype=torch.bool),
            label=batch.label,
        )
        # No more at a time than training takes.
        self._parts = -(-count * options.accumulate // options.batch)

    def __call__(self, step: int) -> dict[str, float]:
        """Figures after so many steps."""
        draw = self._draw.to(self._module.device)
        error, estimate = self._denoised(draw, averaged=False)
        figures = {"val_denoising": float(error.mean())}
        if self._module.average is not None:
            error, estimate = self._denoised(draw, averaged=True)
            figures["val_denoising_averaged"] = float(error.mean())
        return figures | self._judged(draw, estimate)

    def _denoised(self, draw: Draw, averaged: bool) -> tuple[torch.Tensor, torch.Tensor]:
        with self._module.looking(averaged):
            found = [self._module.denoise(draw.part(number, self._parts)) for number in range(self._parts)]
        error, estimate = (torch.cat(values) for values in zip(*found, strict=True))
        return error, estimate

    @torch.no_grad()
    def _judged(self, draw: Draw, estimate: torch.Tensor) -> dict[str, float]:
        teacher, options = self._module.teacher, self._module.options.consistency
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
