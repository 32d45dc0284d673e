"""Small copies of real chips, which stay in memory; chips at their own size are read in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import blocks, shrink, spread

# Chips that the statistics of a dataset are taken from; more would not move a mean or a percentile.
_STATISTICS_CHIPS = 512


@dataclass(frozen=True)
class Chips:
    """Small copies of the chips of one view.

    Attributes:
        images: Copies in sensor units, float32 (n, B, S, S); NaN marks invalid pixels.
        labels: Class positions, int64 (n,).
    """

    images: torch.Tensor
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.labels)


@dataclass(frozen=True)
class RealChips:
    """Small copies of all real chips of a dataset, read once and used by every comparison.

    Attributes:
        train: Chips that were learnt from.
        val: Chips held out to tune on; may be empty.
        test: Chips held out to judge by.
        normalisation: Of the training chips.
    """

    train: Chips
    val: Chips
    test: Chips
    normalisation: StandardNormalisation

    @classmethod
    def read(cls, data: SceneData, size: int | None) -> RealChips:
        """Read every chip of a dataset once, in blocks.

        Args:
            data: The real chips.
            size: Side of the copies in pixels; None keeps the chips' own size.
        """
        train, val, test = (read_chips(view, data.bands, size) for view in (data.train, data.val, data.test))
        some = train.images[spread(len(train), _STATISTICS_CHIPS)]
        return cls(train, val, test, StandardNormalisation.of(some, data.bands))

    @property
    def held_out(self) -> Chips:
        """Validation and test chips together: what no distiller learnt from."""
        if not len(self.val):
            return self.test
        images = torch.cat([self.val.images, self.test.images])
        return Chips(images, np.concatenate([self.val.labels, self.test.labels]))


def read_chips(view: SceneView, bands: BandSet, size: int | None) -> Chips:
    """Copies of ``size`` pixels a side of a view's chips, or of their own size, read in blocks."""
    if not len(view):
        side = size or 1
        return Chips(torch.empty(0, len(bands), side, side), np.empty(0, np.int64))
    parts = [shrink(view.images(positions), bands, size) for positions in blocks(len(view))]
    return Chips(torch.cat(parts), view.labels)


def class_chips(view: SceneView, label: int, most: int) -> NDArray[Any]:
    """At most so many chips of a class, spread evenly over the view, (n, B, H, W); empty if it has none."""
    members = np.flatnonzero(view.labels == label)
    if not len(members):
        return np.empty((0, len(view.source.bands), 1, 1), view.source.bands.dtype)
    return view.images(members[spread(len(members), most)])
