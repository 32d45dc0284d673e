"""Prototype guidance: a pull of each sample's clean estimate toward its prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from rsdistill.diffusion.parameterization import lowpass


@dataclass(frozen=True)
class GuidanceOptions:
    """How strongly, when and in which frequencies prototypes guide.

    Attributes:
        scale: Strength s; 0 turns guidance off.
        end: Share of the steps after which guidance ends.
        grid_size: Guide only the mean of each cell of a ``grid_size`` x ``grid_size`` grid, so that a prototype
            gives palette and layout but no detail that could be copied; None guides every value,
            as the paper does, which copies training chips at high scales.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "cells": "grid_size",
        "start": "guidance acts from the first step, as in the paper; no later start was measured",
        "target": "guidance always pulls straight, as in the paper; no other target was measured",
    }

    scale: Annotated[float, Field(ge=0)] = 2.0
    end: Annotated[float, Field(ge=0, le=1)] = 0.8
    grid_size: Annotated[int, Field(ge=1)] | None = 2

    def active(self, step: int, steps: int) -> bool:
        """Whether guidance acts before this scheduler step (0-based) of so many."""
        return self.scale > 0 and step < self.end * steps


def guide(
    noisy: torch.Tensor,
    clean: torch.Tensor,
    prototypes: torch.Tensor,
    alpha_bar: torch.Tensor,
    options: GuidanceOptions,
) -> torch.Tensor:
    """One guidance step: ``z_t + s·√(1−ᾱ_t)·d/‖d‖₂`` with ``d = p − ẑ₀``.

    The norm is over a sample's whole latent. With ``grid_size``, p and ẑ₀ are averaged over the grid first.
    After Xu, Ghamisi and Weng, arXiv 2601.15829 (``grid_size=None``).

    Args:
        noisy: z_t, (N, C, h, w).
        clean: Estimates ẑ₀ from the guided model output, (N, C, h, w).
        prototypes: p, (N, C, h, w).
        alpha_bar: ᾱ_t, scalar tensor.
        options: Scale and grid.

    Returns:
        Guided z_t, (N, C, h, w).
    """
    length = options.scale * (1.0 - alpha_bar).sqrt().to(noisy)
    direction = lowpass(prototypes - clean, options.grid_size)
    norm = direction.flatten(1).norm(dim=1).clamp_min(1e-8).reshape(-1, 1, 1, 1)
    guided: torch.Tensor = noisy + length * direction / norm
    return guided
