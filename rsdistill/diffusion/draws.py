"""What chance decides for the samples of a training step."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Draw(NamedTuple):
    """Clean latents with the noise, timestep and text that chance gave them.

    Attributes:
        clean: Clean latents z₀, (n, C, h, w).
        noise: Noise ε, (n, C, h, w).
        timestep: Timesteps, int64 (n,).
        text: Row of each sample's text: of the class prompts, the empty prompt and the captions, int64 (n,).
        told: Which samples have a text at all, bool (n,).
        label: Class positions, int64 (n,).
    """

    clean: torch.Tensor
    noise: torch.Tensor
    timestep: torch.Tensor
    text: torch.Tensor
    told: torch.Tensor
    label: torch.Tensor

    def part(self, number: int, parts: int) -> Draw:
        """One of so many parts, of sizes that differ by one at most."""
        return Draw(*(value.tensor_split(parts)[number] for value in self))

    def to(self, device: torch.device) -> Draw:
        """The same on a device."""
        return Draw(*(value.to(device) for value in self))
