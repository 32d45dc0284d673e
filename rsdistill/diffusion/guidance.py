"""Prototype guidance: a pull of each sample's clean estimate toward its prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from rsdistill.diffusion.parameterization import lowpass


@dataclass(frozen=True)
class GuidanceOptions:
    """How strongly, when and in which frequencies prototypes guide.

    Attributes:
        scale: Strength s; 0 turns guidance off.
        start: Share of the steps after which guidance begins.
        end: Share of the steps after which it ends.
        grid_size: Guide only the mean of each cell of a ``grid_size`` x ``grid_size`` grid, so that a prototype
            gives palette and layout but no detail that could be copied; None guides every value,
            as the paper does, which copies training chips at high scales.
        target: ``linear`` pulls straight toward the prototype, as the paper does; ``spherical`` turns the
            estimate toward the prototype's direction on the sphere of its own norm, so that a prototype that
            is flatter than samples are, such as a mean of many, does not flatten them.
    """

    RENAMED: ClassVar[dict[str, str]] = {"cells": "grid_size"}

    scale: Annotated[float, Field(ge=0)] = 2.0
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    end: Annotated[float, Field(ge=0, le=1)] = 0.8
    grid_size: Annotated[int, Field(ge=1)] | None = 2
    target: Literal["linear", "spherical"] = "linear"

    def active(self, step: int, steps: int) -> bool:
        """Whether guidance acts before this scheduler step (0-based) of so many."""
        return self.scale > 0 and self.start * steps <= step < self.end * steps


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

    The spherical target takes the step ``s·√(1−ᾱ_t)`` as the length of an arc: ẑ₀ is turned so far toward p,
    never beyond its direction, and z_t is moved as ẑ₀ was.

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
    if options.target == "spherical":
        return noisy + _turn(lowpass(clean, options.grid_size), lowpass(prototypes, options.grid_size), length)
    direction = lowpass(prototypes - clean, options.grid_size)
    guided: torch.Tensor = noisy + length * direction / _norm(direction)
    return guided


def _turn(start: torch.Tensor, target: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """How start (N, C, h, w) moves if it is turned by an arc of a length toward the direction of target."""
    radius = _norm(start)
    along, toward = start / radius, target / _norm(target)
    cosine = (along * toward).sum((1, 2, 3), keepdim=True).clamp(-1.0, 1.0)
    across = toward - cosine * along
    angle = torch.minimum(length / radius, torch.acos(cosine))
    turned: torch.Tensor = radius * ((angle.cos() - 1.0) * along + angle.sin() * across / _norm(across))
    return turned


def _norm(latents: torch.Tensor) -> torch.Tensor:
    """Norm of each latent, (N, 1, 1, 1), at least 1e-8."""
    norm: torch.Tensor = latents.flatten(1).norm(dim=1)
    return norm.clamp_min(1e-8).reshape(-1, 1, 1, 1)
