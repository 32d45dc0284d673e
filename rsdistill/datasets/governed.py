"""A dataset under a policy: without the excluded classes, and with others merged into their parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneSource, SceneView
from rsdistill.sensitive.resolved import PolicyRecord, ResolvedPolicy


class GovernedScenes(SceneSource):
    """The chips of a source whose classes go on; it knows neither labels nor names of the others.

    Args:
        source: All chips.
        classes: The classes to go on with.
        target: Key of a class of the source to key of one of these; chips of others are left out.
        policy: What is to be said of the policy.
    """

    def __init__(
        self,
        source: SceneSource,
        classes: Sequence[ClassInfo],
        target: Mapping[str, str],
        policy: PolicyRecord | None = None,
    ) -> None:
        self._source, self.classes, self.policy = source, tuple(classes), policy
        self.name, self.bands, self.gsd = source.name, source.bands, source.gsd
        self.licence, self.citation, self.published_split = source.licence, source.citation, source.published_split
        place = {info.key: label for label, info in enumerate(self.classes)}
        labels = np.array([place.get(target.get(info.key, ""), -1) for info in source.classes], np.int64)[source.labels]
        self._positions = np.flatnonzero(labels >= 0)
        self.labels = labels[self._positions]
        self.chip_ids = [source.chip_ids[int(position)] for position in self._positions]

    def read(self, index: int) -> NDArray[Any]:
        """One chip; see :meth:`SceneSource.read`."""
        return self._source.read(int(self._positions[index]))

    def duplicate_groups(self) -> NDArray[np.int64]:
        """Group number of each chip (N,), as of the source."""
        return self._source.duplicate_groups()[self._positions]

    def official_split(self) -> dict[str, NDArray[np.int64]]:
        """The source's lists without the chips that are left out."""
        official = self._source.official_split()
        return {part: np.flatnonzero(np.isin(self._positions, chips)) for part, chips in official.items()}


def without_excluded(source: SceneSource, resolved: ResolvedPolicy) -> SceneSource:
    """A source without the excluded classes, the others as they were."""
    kept = [info for info in source.classes if info.key in resolved.target]
    return GovernedScenes(source, kept, {info.key: info.key for info in kept})


def merged(data: SceneData, resolved: ResolvedPolicy) -> SceneData:
    """A split dataset with its classes merged and its policy recorded; every chip stays in its view."""
    target = {info.key: resolved.target[info.key] for info in data.classes}
    classes = [resolved.class_info(key) for key in dict.fromkeys(target.values())]
    source = GovernedScenes(data.source, classes, target, resolved.record())
    views = {name: SceneView(source, getattr(data, name).indices) for name in ("train", "val", "test")}
    return replace(data, source=source, **views)
