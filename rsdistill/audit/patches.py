"""Tiles pasted together from crops of real chips, and chips that were cropped: quadrants against windows.

Each quadrant of a tile is compared with every window of every training chip of its class, at all scales from a
crop in the chip's own pixels to the whole chip shrunk into the quadrant, in all eight symmetries. A quadrant of an
honest tile is about as like to windows of several chips; one that was pasted is like to its source alone.
"""

from __future__ import annotations

import torch

from rsdistill.audit.matching import symmetries, unit_vectors
from rsdistill.audit.pixels import resize

# Side in pixels at which a quadrant is compared.
_SIDE = 8
QUADRANTS = 4


def quadrants(images: torch.Tensor) -> torch.Tensor:
    """Small copies of the quadrants of images (n, B, H, W), of shape (n * 4, B, 8, 8)."""
    small = torch.nan_to_num(resize(images, 2 * _SIDE))
    parts = [small[..., top : top + _SIDE, left : left + _SIDE] for top in (0, _SIDE) for left in (0, _SIDE)]
    return torch.stack(parts, dim=1).flatten(0, 1)


def windows(images: torch.Tensor) -> torch.Tensor:
    """All windows of images (n, B, H, W) at nine scales as unit vectors (n, 285, B * 64).

    Shrinking the chip to R pixels makes a window of 8 pixels show 8/R of its side: R = 16 is a quarter of the
    chip as large as a quadrant, R = 8 the whole chip.
    """
    found = []
    for side in range(_SIDE, 2 * _SIDE + 1):
        small = torch.nan_to_num(resize(images, side))
        cut = small.unfold(2, _SIDE, 1).unfold(3, _SIDE, 1)
        found.append(cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2))
    return unit_vectors(torch.cat(found, dim=1))


def patch_similarity(parts: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Largest correlation of each quadrant with a window of each chip, over all symmetries.

    Args:
        parts: From :func:`quadrants`, (n * 4, B, 8, 8).
        real: From :func:`windows`, (m, w, B * 64).

    Returns:
        Similarities of shape (n * 4, m).
    """
    flat = real.flatten(0, 1).T
    best = torch.full((len(parts), len(real)), -torch.inf)
    for turned in symmetries(parts):
        found = (unit_vectors(turned) @ flat).view(len(parts), *real.shape[:2])
        best = torch.maximum(best, found.amax(2))
    return best
