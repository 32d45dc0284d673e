"""The plain ConvNet that dataset distillation is usually judged by."""

from __future__ import annotations

from torch import nn

from rsdistill.errors import OptionError

# The classifier of the ConvNet sees this many pixels a side, whatever the size of the chip.
_GRID = 4


def convnet(bands: int, classes: int, size: int = 32, blocks: int = 3, width: int = 64) -> nn.Module:
    """Build the plain ConvNet that dataset distillation is usually judged by.

    Args:
        bands: Number of input bands.
        classes: Number of classes.
        size: Side of the training chips, pixels.
        blocks: Number of blocks; each halves the chip.
        width: Channels of every block.

    Returns:
        Module from (N, bands, H, W) to logits (N, classes), for chips of any size.

    Raises:
        OptionError: If the chips are too small for so many blocks.
    """
    if blocks < 1 or width < 1 or size < 2**blocks:
        raise OptionError(
            f"convnet: {blocks} block(s) of width {width} do not fit chips of {size} px; "
            f"every block halves the chip, so choose fewer blocks or larger chips"
        )
    layers: list[nn.Module] = []
    for block in range(blocks):
        layers += [
            nn.Conv2d(bands if block == 0 else width, width, 3, padding=1),
            # One group a channel keeps each band's contrast, whatever its brightness.
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    head = [nn.AdaptiveAvgPool2d(_GRID), nn.Flatten(), nn.Linear(width * _GRID**2, classes)]
    return nn.Sequential(*layers, *head)
