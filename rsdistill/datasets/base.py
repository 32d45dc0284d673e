"""SceneData: train, validation and test views over one scene dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from rsdistill.bands import BandSet
from rsdistill.classes import ClassInfo
from rsdistill.errors import DatasetError, SplitError, UnknownNameError
from rsdistill.registry import Registry
from rsdistill.sensitive.resolved import PolicyRecord

Sample = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PublishedSplit:
    """The split that papers report for a dataset, drawn at random within each class.

    Attributes:
        train: Chips a class to learn from: a count, or a share of the class where it is a float.
        test: Chips a class to judge by; None for all that are left.
    """

    train: int | float
    test: int | None = None


class SceneSource(ABC):
    """All chips of one dataset, before any split: what a new dataset implements.

    Attributes:
        name: Registered name of the dataset.
        classes: Its classes; labels point into them.
        bands: The bands that :meth:`read` returns, in that order.
        gsd: Ground sampling distance in metres of what :meth:`read` returns.
        licence: Licence of the images, in words or as an SPDX identifier.
        citation: How to cite the dataset.
        labels: Class position of each chip, int64 (N,).
        chip_ids: A unique name of each chip, for messages and split files.
        published_split: The split that papers report, None if there is none.
        policy: What is to be said of the policy that the chips went through, None if there was none.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    bands: BandSet
    gsd: float
    licence: str
    citation: str
    labels: NDArray[np.int64]
    chip_ids: Sequence[str]
    published_split: PublishedSplit | None = None
    policy: PolicyRecord | None = None

    @classmethod
    def known_classes(cls, options: Mapping[str, Any]) -> tuple[ClassInfo, ...] | None:
        """All its classes, told without opening a chip; None where only loading tells.

        A policy is held against them before the first chip is read.

        Args:
            options: What the dataset would be built with.

        Raises:
            DatasetError: If the dataset is missing.
        """
        return None

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> NDArray[Any]:
        """One chip of shape (B, H, W) in sensor units, of ``bands.dtype``.

        Raises:
            ChipError: If the chip cannot be read or does not fit the dataset.
        """

    def duplicate_groups(self) -> NDArray[np.int64]:
        """Group number of each chip (N,): chips with exactly equal pixels share one, so no split parts them."""
        return np.arange(len(self), dtype=np.int64)

    def official_split(self) -> dict[str, NDArray[np.int64]]:
        """Positions of the chips in the official lists, under the keys train, val and test.

        Raises:
            SplitError: If the dataset has no such lists, or one is missing.
        """
        raise SplitError(f"dataset '{self.name}' has no official split lists; use scheme 'stratified'")


class SceneView(Dataset[Sample]):
    """Some chips of a source, as torchgeo samples.

    Args:
        source: Where the chips come from.
        indices: Which of its chips, (n,).
    """

    def __init__(self, source: SceneSource, indices: NDArray[np.int64]) -> None:
        self.source, self.indices = source, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        """Number of chips in the view."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Image float32 (B, H, W) in sensor units and label int64."""
        position = int(self.indices[index])
        image = torch.from_numpy(self.source.read(position).astype(np.float32))
        return {"image": image, "label": torch.tensor(int(self.source.labels[position]))}

    def __repr__(self) -> str:
        """Size and dataset."""
        return f"SceneView({len(self)} chips of {self.source.name})"

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class positions (n,), without reading a pixel."""
        return self.source.labels[self.indices]

    @property
    def chip_ids(self) -> list[str]:
        """Names of the chips (n,)."""
        return [self.source.chip_ids[i] for i in self.indices]

    def images(self, which: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Chips stacked to (n, B, H, W) in the sensor's own type; all of the view, or those at ``which``."""
        chosen = self.indices if which is None else self.indices[which]
        if not len(chosen):
            raise DatasetError(f"dataset '{self.source.name}': no chips to stack in this view")
        return np.stack([self.source.read(int(i)) for i in chosen])


@dataclass(frozen=True, repr=False)
class SceneData:
    """Three views over one source that never overlap.

    Attributes:
        source: All chips.
        train: Chips to learn from.
        val: Chips cut from train to tune on; may be empty.
        test: Chips to judge by, never to tune on.
    """

    source: SceneSource
    train: SceneView
    val: SceneView
    test: SceneView

    def __repr__(self) -> str:
        """Dataset, sizes, classes and bands."""
        return (
            f"SceneData({self.name}: {len(self.train)} train, {len(self.val)} val, {len(self.test)} test chips, "
            f"{len(self.classes)} classes, bands {', '.join(self.bands.names)}, {self.gsd:g} m)"
        )

    @property
    def name(self) -> str:
        """Registered name of the dataset."""
        return self.source.name

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes that labels point to."""
        return self.source.classes

    @property
    def bands(self) -> BandSet:
        """The bands of every chip."""
        return self.source.bands

    @property
    def gsd(self) -> float:
        """Ground sampling distance in metres."""
        return self.source.gsd

    @property
    def licence(self) -> str:
        """Licence of the images."""
        return self.source.licence

    @property
    def citation(self) -> str:
        """How to cite the dataset."""
        return self.source.citation

    @property
    def policy(self) -> PolicyRecord | None:
        """What is to be said of the policy, None if there was none."""
        return self.source.policy

    @property
    def protected(self) -> frozenset[str]:
        """Keys of the classes that the policy protects; none without a policy."""
        return frozenset() if self.policy is None else frozenset(self.policy.protected)

    def class_index(self, key: str) -> int:
        """Position of a class by key.

        Raises:
            UnknownNameError: If there is no such class.
        """
        keys = [c.key for c in self.classes]
        if key not in keys:
            raise UnknownNameError(f"class of {self.name}:", key, keys)
        return keys.index(key)


DATASETS: Registry[SceneSource] = Registry("dataset", "rsdistill.datasets")
