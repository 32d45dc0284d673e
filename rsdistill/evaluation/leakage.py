"""Nearest real neighbours of distilled images: are they suspiciously often, or suspiciously near, training chips?

Two figures, both in small pixels that are normalised by band, both blind to flips and quarter turns
(the distance of two images is the smallest over the eight symmetries of the square):

- the *held-out null*: without leakage a distilled image is as near to chips that were held out as to
  those that were learnt from, so its nearest neighbour is a training chip half of the time, once the
  rate is corrected for unequal numbers of both;
- the *copy ratio*: a copy is far nearer to one training chip than to the others around it.

Either can show leakage; neither can prove that there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.datasets.base import SceneData
from rsdistill.datasets.real_chips import Chips, RealChips
from rsdistill.distilled import DistilledSet
from rsdistill.errors import AuditError, BandError, OptionError
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import blocks, dihedral_views, shrink
from rsdistill.imaging.similarity import copy_ratios


def aligned(tiles: DistilledSet, data: SceneData) -> DistilledSet:
    """The same set with labels that point into the classes of ``data``, matched by key.

    A set may lack classes that the dataset has, as a policy may have left them out.

    Args:
        tiles: The distilled set.
        data: The dataset to compare it with.

    Raises:
        BandError: If the bands differ.
        UnknownNameError: If the set has a class that the dataset lacks.
    """
    if tiles.bands.names != data.bands.names:
        raise BandError(
            f"the distilled set has bands {', '.join(tiles.bands.names)}, dataset '{data.name}' has "
            f"{', '.join(data.bands.names)}; load the dataset with the bands of the set"
        )
    if [c.key for c in tiles.classes] == [c.key for c in data.classes]:
        return tiles
    target = np.array([data.class_index(c.key) for c in tiles.classes], np.int64)
    soft = tiles.soft_label
    if soft is not None:
        soft = np.zeros((len(tiles), len(data.classes)), np.float32)
        soft[:, target] = tiles.soft_label
    return replace(tiles, label=target[tiles.label], classes=data.classes, soft_label=soft)


def require_chips(data: SceneData, labels: NDArray[np.int64], held_out: bool = True) -> None:
    """Refuse classes without training chips, or held-out ones where these are needed, to compare with.

    Raises:
        AuditError: Naming the class.
    """
    views = {"training": [data.train]} | ({"held-out": [data.val, data.test]} if held_out else {})
    for kind, parts in views.items():
        for label in np.setdiff1d(labels, np.concatenate([view.labels for view in parts])).tolist():
            raise AuditError(
                f"class '{data.classes[label].key}' of dataset '{data.name}' has no {kind} chip to compare with; "
                f"choose a split that leaves some"
            )


COPY_THRESHOLD = 1.0 / 3.0
# Side in pixels at which images are compared.
SIZE = 32
# Distances nearer to each other than this share are equal: what rounding alone can move.
_TIE = 1e-5

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeldOutNull:
    """How often the nearest real neighbour of a distilled image is a training chip.

    Splits are seldom equal. To draw as many training as held-out chips would leave most copied chips out
    of the comparison and so hide copies; instead all chips take part, and rate and interval are brought to
    equal sizes by their odds: ``rate / (1 - rate) = votes / (1 - votes) * (1 - chance) / chance``.
    With equal sizes that changes nothing; copies alone give 1 and no leak gives 0.5 with any sizes.

    Attributes:
        vote: Of each distilled image, (n,): 1 if its neighbour is a training chip, 0 if it is a held-out
            one, ``chance`` if two are equally near.
        chance: Share of training chips among the chips compared with each image, (n,); in (0, 1).
        train_distance: Distance to the nearest training chip of the class, (n,).
        held_out_distance: Distance to the nearest held-out chip of the class, (n,).
    """

    vote: FloatArray
    chance: FloatArray
    train_distance: FloatArray
    held_out_distance: FloatArray

    @property
    def rate(self) -> float:
        """Share of images whose neighbour is a training chip, at equal sizes; 0.5 is what no leak would give."""
        return self._at_equal_sizes(float(self.vote.mean()))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % binomial interval of the rate, after Clopper and Pearson (1934)."""
        low, high = clopper_pearson(float(self.vote.sum()), len(self.vote))
        return self._at_equal_sizes(low), self._at_equal_sizes(high)

    def _at_equal_sizes(self, share: float) -> float:
        chance = float(self.chance.mean())
        train, held_out = share * (1.0 - chance), (1.0 - share) * chance
        return train / (train + held_out)


@dataclass(frozen=True, eq=False)
class CopyRatio:
    """How much nearer a distilled image is to one training chip than to the others around it.

    Attributes:
        ratio: Of each distilled image, (n,): distance to the nearest training chip of the class over
            the mean distance to its 50 nearest; 0 is an exact copy, 1 is no nearer than to others.
        distance: Distance to the nearest training chip, (n,).
    """

    ratio: FloatArray
    distance: FloatArray

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Which images are flagged as copies, (n,)."""
        return np.asarray(self.ratio < COPY_THRESHOLD)

    @property
    def share(self) -> float:
        """Share of images flagged as copies."""
        return float(self.flagged.mean())


@dataclass(frozen=True, eq=False)
class Leakage:
    """Both leakage figures of one distilled set.

    Attributes:
        held_out_null: How often the nearest neighbour is a training chip.
        copy_ratio: How near the nearest training chip is.
    """

    held_out_null: HeldOutNull
    copy_ratio: CopyRatio

    @classmethod
    def pooled(cls, parts: Iterable[Leakage]) -> Leakage:
        """One result over the images of several sets."""
        values = [part.to_dict() for part in parts]
        return cls.from_dict({name: sum((value[name] for value in values), []) for name in values[0]})

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists, a value an image; :meth:`from_dict` reads them back."""
        null, copies = self.held_out_null, self.copy_ratio
        return {
            "vote": null.vote.tolist(),
            "chance": null.chance.tolist(),
            "train_distance": null.train_distance.tolist(),
            "held_out_distance": null.held_out_distance.tolist(),
            "copy_ratio": copies.ratio.tolist(),
            "copy_distance": copies.distance.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Leakage:
        """Rebuild from :meth:`to_dict`."""
        names = ("vote", "chance", "train_distance", "held_out_distance", "copy_ratio", "copy_distance")
        parts = [np.asarray(values[name], np.float64) for name in names]
        return cls(HeldOutNull(*parts[:4]), CopyRatio(*parts[4:]))


def copy_ratio(tiles: DistilledSet, data: SceneData, size: int = SIZE) -> CopyRatio:
    """Ask whether distilled images are copies of single training chips, without need of held-out chips.

    Neighbours are the training chips of the image's own class, the 50 nearest or all if there are
    fewer: other classes would make the ratio depend on how unlike the classes are.

    Arguments and errors as of :func:`leakage`.

    Source: Carlini et al., Extracting training data from diffusion models, 2023.
    """
    tiles, real = _prepared(tiles, data, size, None, held_out=False)
    return _copy_ratio(tiles.label, _distances(tiles, real.train, real.normalisation))


def leakage(tiles: DistilledSet, data: SceneData, size: int = SIZE, real: RealChips | None = None) -> Leakage:
    """Ask whether distilled images are nearer to training chips than to held-out ones, and copies of single ones.

    Each is compared with all training and all held-out (validation and test) chips of its class;
    :class:`HeldOutNull` corrects for their unequal numbers.

    Args:
        tiles: The distilled set.
        data: The dataset that it was made from, with the same splits.
        size: Side in pixels at which images are compared.
        real: Copies of the chips of ``data`` at ``size``, where a caller has them; None reads them.

    Raises:
        AuditError: If a class of the set has no training or no held-out chip, or the set is empty.
        BandError: If the bands differ.
        UnknownNameError: If the set has a class that the dataset lacks.
    """
    tiles, real = _prepared(tiles, data, size, real)
    to_train = _distances(tiles, real.train, real.normalisation)
    to_held_out = _distances(tiles, real.held_out, real.normalisation)
    return Leakage(_held_out_null(tiles.label, to_train, to_held_out), _copy_ratio(tiles.label, to_train))


def clopper_pearson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a rate; half successes (ties) are allowed.

    Args:
        successes: Number of successes, between 0 and ``trials``.
        trials: Number of trials, at least 1.
        confidence: Coverage of the interval.

    Returns:
        Lower and upper limit.

    Source: Clopper and Pearson, The use of confidence or fiducial limits, 1934.
    """
    from scipy.stats import beta

    tail = (1.0 - confidence) / 2.0
    low = beta.ppf(tail, successes, trials - successes + 1) if successes > 0 else 0.0
    high = beta.ppf(1.0 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def dihedral_distances(images: torch.Tensor, others: torch.Tensor) -> FloatArray:
    """Smallest l2 distance of each pair over the eight symmetries of the square.

    Args:
        images: Shape (n, B, S, S).
        others: Shape (m, B, S, S).

    Returns:
        Distances of shape (n, m).
    """
    turned = torch.stack(list(dihedral_views(images)))
    # The usual way by matrix products loses the small distances of copies to rounding.
    distances = torch.cdist(
        turned.flatten(0, 1).flatten(1), others.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return distances.view(8, len(images), len(others)).amin(0).double().numpy()


def _prepared(
    tiles: DistilledSet, data: SceneData, size: int, real: RealChips | None, held_out: bool = True
) -> tuple[DistilledSet, RealChips]:
    if size < 1:
        raise OptionError(f"size is {size}; images are compared at 1 pixel or more a side")
    if not len(tiles):
        raise AuditError("the distilled set is empty; there is nothing to audit")
    tiles = aligned(tiles, data)
    require_chips(data, tiles.label, held_out)
    real = real or RealChips.read(data, size)
    if real.train.images.shape[-1] != size:
        raise OptionError(f"the real copies given are {real.train.images.shape[-1]} px wide, not {size}")
    return tiles, real


def _distances(tiles: DistilledSet, chips: Chips, normalisation: StandardNormalisation) -> dict[int, FloatArray]:
    """Distances (tiles of the class, chips of the class) by class position."""
    size = chips.images.shape[-1]
    found: dict[int, FloatArray] = {}
    for label in np.unique(tiles.label).tolist():
        same = np.flatnonzero(chips.labels == label)
        others = normalisation(chips.images[same])
        members = np.flatnonzero(tiles.label == label)
        rows = [
            dihedral_distances(normalisation(shrink(tiles.image[members[part]], tiles.bands, size)), others)
            for part in blocks(len(members))
        ]
        found[label] = np.concatenate(rows)
    return found


def _held_out_null(
    labels: NDArray[np.int64], to_train: Mapping[int, FloatArray], to_held_out: Mapping[int, FloatArray]
) -> HeldOutNull:
    train_distance, held_out_distance, chance = (np.empty(len(labels)) for _ in range(3))
    for label, train in to_train.items():
        members, held_out = labels == label, to_held_out[label]
        train_distance[members], held_out_distance[members] = train.min(axis=1), held_out.min(axis=1)
        chance[members] = train.shape[1] / (train.shape[1] + held_out.shape[1])
    tied = np.isclose(train_distance, held_out_distance, rtol=_TIE, atol=_TIE)
    vote = np.where(tied, chance, (train_distance < held_out_distance).astype(np.float64))
    return HeldOutNull(vote, chance, train_distance, held_out_distance)


def _copy_ratio(labels: NDArray[np.int64], to_train: Mapping[int, FloatArray]) -> CopyRatio:
    nearest, ratio = np.empty(len(labels)), np.empty(len(labels))
    for label, distances in to_train.items():
        nearest[labels == label] = distances.min(axis=1)
        ratio[labels == label] = copy_ratios(distances)
    return CopyRatio(ratio, nearest)
