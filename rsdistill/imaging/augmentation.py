"""Views of chips that overhead imagery allows: the eight symmetries of the square, and random ones to learn from."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Largest shift as a share of the side, and spread of the brightness in standard deviations of a band.
_SHIFT = 1 / 8
_BRIGHTNESS = 0.2


def turned(images: torch.Tensor, turns: int, mirror: bool = False) -> torch.Tensor:
    """Square images (..., S, S) mirrored left to right where asked, then turned by quarters."""
    return torch.rot90(images.flip(-1) if mirror else images, turns, (-2, -1))


def dihedral(images: torch.Tensor, number: int) -> torch.Tensor:
    """One of the 8 turns and flips of images (..., S, S): ``number % 4`` quarter turns, mirrored after it from 4 on."""
    return turned(images, -number if number >= 4 else number, number >= 4)


def dihedral_views(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """All 8 of images (..., S, S), the first one unchanged: four turns, then those of the mirrored images."""
    return (turned(images, turns, mirror) for mirror in (False, True) for turns in range(4))


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip, turn by quarters, shift and brighten each image at random, all at once.

    Args:
        images: Normalised, of shape (n, B, H, W); quarter turns need H = W and are left out otherwise.
        generator: CPU generator of the draws.

    Returns:
        Images of the same shape; shifts fill the border by reflection.
    """
    count, _, height, width = images.shape
    down, right, transpose = torch.rand(3, count, generator=generator) < 0.5
    rows = _shifted(count, height, down, generator).to(images.device)
    columns = _shifted(count, width, right, generator).to(images.device)
    brightness = _BRIGHTNESS * torch.randn(count, 1, 1, 1, generator=generator).to(images.device)
    if height == width:
        images = torch.where(transpose.to(images.device)[:, None, None, None], images.transpose(2, 3), images)
    each = torch.arange(count, device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2) + brightness


def _shifted(count: int, side: int, flip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Source position (count, side) of every row or column after a random shift and a flip where asked."""
    reach = int(side * _SHIFT)
    shift = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    last = side - 1
    source = last - (last - (torch.arange(side) + shift).abs()).abs()
    return torch.where(flip[:, None], source.flip(1), source)
