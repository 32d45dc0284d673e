"""Which real chips an image is most similar to, found block by block, so that memory stays bounded.

Images are compared by correlation: of the pixels of small copies, less each band's mean and brought to unit
length, so that neither brightness nor contrast hides a copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

FloatArray = NDArray[np.float64]

# Symmetries of the square: four quarter turns, mirrored or not.
SYMMETRIES = 8
# Neighbours that the nearest one is held against: few, so that it need not be far off from all the class, and more
# than one, so that a second view of the same place does not hide it.
RIVALS = 3
# Correlations nearer to 1 than this are equal copies; rounding alone moves them so far.
_HIGHEST = 1.0 - 1e-5


class Matches:
    """The largest similarities of each query so far, and which real chips they belong to.

    Args:
        queries: Number of queries.
        keep: Similarities kept of each.

    Attributes:
        similarity: Falling from the largest, (queries, keep); minus infinity where there are fewer chips.
        position: Positions of the chips, (queries, keep); -1 where there are fewer.
    """

    def __init__(self, queries: int, keep: int) -> None:
        self.similarity = torch.full((queries, keep), -torch.inf)
        self.position = torch.full((queries, keep), -1, dtype=torch.int64)

    def add(self, rows: slice, similarity: torch.Tensor, positions: NDArray[np.int64]) -> None:
        """Take in the similarities (rows, chips) of some queries to some chips."""
        keep = self.similarity.shape[1]
        named = torch.from_numpy(positions).expand(len(similarity), -1)
        joined = torch.cat([self.similarity[rows], similarity], dim=1)
        self.similarity[rows], order = joined.topk(keep, dim=1)
        self.position[rows] = torch.cat([self.position[rows], named], dim=1).gather(1, order)

    @property
    def all(self) -> FloatArray:
        """All similarities kept, (queries, keep)."""
        return self.similarity.double().numpy()

    @property
    def best(self) -> FloatArray:
        """Largest similarity of each query, (queries,)."""
        return self.similarity[:, 0].double().numpy()

    @property
    def nearest(self) -> NDArray[np.int64]:
        """Position of the most similar chip of each query, (queries,)."""
        return self.position[:, 0].numpy()

    def stand_out(self) -> FloatArray:
        """How far the nearest chip stands out from the next three, (queries,).

        Correlations are compared after Fisher's transform, which gives them the same spread whatever their
        size: images of a uniform class are alike without one being a copy, and a copy is like one far more
        than like the next.

        Source: Fisher, On the probable error of a coefficient of correlation, 1921.
        """
        fisher = torch.atanh(self.similarity[:, : 1 + RIVALS].clamp(-_HIGHEST, _HIGHEST)).double()
        found = torch.isfinite(self.similarity[:, 1 : 1 + RIVALS])
        rivals = torch.where(found, fisher[:, 1:], 0.0).sum(1) / found.sum(1).clamp_min(1)
        return (fisher[:, 0] - rivals).numpy()


def symmetries(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """The eight turned and mirrored versions of square images (..., S, S), the first one unchanged."""
    for version in (images, images.flip(-1)):
        for turns in range(4):
            yield torch.rot90(version, turns, (-2, -1))


def unit_vectors(images: torch.Tensor) -> torch.Tensor:
    """Images (..., B, S, S) as vectors (..., B*S*S) whose products are correlations; a constant image becomes 0."""
    centred = images - images.mean((-2, -1), keepdim=True)
    return functional.normalize(centred.flatten(-3), dim=-1)


def distances(similarity: FloatArray) -> FloatArray:
    """Correlations as distances of the unit vectors, 0 for copies to 2 for opposites; infinite where there is none."""
    return np.sqrt(np.maximum(2.0 - 2.0 * similarity, 0.0))
