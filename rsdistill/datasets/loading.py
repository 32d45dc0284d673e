"""Datasets by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import DATASETS, SceneData, SceneSource, SceneView
from rsdistill.datasets.splits import SplitOptions, split_scenes
from rsdistill.errors import OptionError, PolicyError
from rsdistill.sensitive.policy import Policy
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


def list_datasets() -> list[str]:
    """Names that :func:`load_dataset` knows."""
    return DATASETS.names()


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    split: SplitOptions | None = None,
    scheme: str | None = None,
    train: float | None = None,
    val: float | None = None,
    seed: int | None = None,
    size: int | None = None,
    bands: str | Sequence[str] | Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    policy: str | Path | Policy | None = None,
    **options: Any,
) -> SceneData:
    """Open a dataset and cut it into train, val and test.

    Every dataset takes ``root``, ``size``, ``bands`` and ``classes`` and makes of them what fits:
    files are resampled, rendered scenes are rendered so. What is None is left to the dataset.

    Args:
        name: One of :func:`list_datasets`.
        root: Folder of the dataset; datasets that are rendered need none.
        split: How to cut; or give ``scheme``, ``train``, ``val`` and ``seed`` one by one.
        scheme: ``"stratified"`` unless given, ``"published"`` or ``"torchgeo"``.
        train: Share of each class to learn from.
        val: Share of train to cut off for validation.
        seed: Seed of the split, and of the scenes where the dataset renders them; beside ``split``, which
            has its own, of the scenes alone.
        size: Pixels on a side of every chip; the GSD changes with it.
        bands: Names of the bands to take, in the order wanted, or a sensor's name.
        classes: Keys of the classes to take; no chip of another is read.
        policy: What is to be done with sensitive classes, or the YAML file that says it; no chip of an
            excluded class is read. The split is that of the same dataset without the policy.
        **options: Further options of the dataset, such as ``download``.

    Returns:
        Views that share no chip.

    Raises:
        UnknownNameError: If the name, an option, a class or a band is unknown.
        DatasetError: If the dataset is missing or damaged.
        PolicyError: If the policy is not valid or does not fit the dataset.
        SplitError: If it cannot be cut as asked.
    """
    renders = "seed" in inspect.signature(DATASETS.get(name).factory).parameters
    given = {"root": root, "size": size, "bands": bands, "classes": classes}
    options |= {option: value for option, value in given.items() if value is not None}
    if seed is not None and (renders or split is not None):
        options["seed"] = seed
    if split is None:
        split = SplitOptions(scheme or "stratified", train, val, seed or 0)
    elif scheme is not None or train is not None or val is not None:
        raise OptionError("give either split, or scheme, train and val; not both")
    if policy is None:
        return split_scenes(DATASETS.create(name, **options), split)
    return load_governed(policy if isinstance(policy, Policy) else Policy.load(policy), name, options, split)


def resolve_policy(policy: Policy, name: str, options: Mapping[str, Any]) -> ResolvedPolicy:
    """What a policy makes of a dataset's classes, before a chip is read.

    A dataset whose classes only loading tells is loaded for it.

    Args:
        policy: The policy.
        name: Registered name of the dataset.
        options: What the dataset would be built with.

    Raises:
        PolicyError: If the policy does not fit the dataset, or excludes a class that option classes asks for.
    """
    known = known_classes(name, options)
    if known is None:
        known = DATASETS.create(name, **options).classes
    return _asked_for(policy.resolve(known, name), options)


def known_classes(name: str, options: Mapping[str, Any]) -> tuple[ClassInfo, ...] | None:
    """All classes of a dataset, told without opening a chip; None where only loading tells.

    Args:
        name: Registered name of the dataset.
        options: What the dataset would be built with.

    Raises:
        DatasetError: If the dataset is missing.
    """
    tell = getattr(DATASETS.get(name).factory, "known_classes", None)
    found: tuple[ClassInfo, ...] | None = None if tell is None else tell(options)
    return found


def load_governed(policy: Policy, name: str, options: Mapping[str, Any], split: SplitOptions) -> SceneData:
    """Open a dataset without what its policy excludes; see :func:`load_dataset`."""
    resolved = resolve_policy(policy, name, options)
    if known_classes(name, options) is None:
        source = without_excluded(DATASETS.create(name, **options), resolved)
    else:
        source = DATASETS.create(name, **{"classes": resolved.read, **options})
    return merged(split_scenes(source, split), resolved)


def _asked_for(resolved: ResolvedPolicy, options: Mapping[str, Any]) -> ResolvedPolicy:
    """Refuse a choice of classes that the policy excludes, or of which it leaves less than two."""
    chosen = options.get("classes")
    if chosen is None:
        return resolved
    for key in chosen:
        if key in resolved.excluded:
            raise PolicyError(f"option classes (data.classes in a config) asks for '{key}', which the policy excludes")
    left = {resolved.target[key] for key in chosen if key in resolved.target}
    if len(left) == 1 < len(chosen):
        raise PolicyError(f"the policy merges all of option classes (data.classes) into '{left.pop()}'; name more")
    return resolved
