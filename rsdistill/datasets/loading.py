"""Datasets by name: what a source does not take itself, the loader does for it; splits and policies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.bands import BandSet
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import DATASETS, SceneData, SceneSource, SceneView
from rsdistill.datasets.folder import chosen_bands, chosen_classes
from rsdistill.datasets.reading import to_cells
from rsdistill.datasets.splits import SplitOptions, split_scenes
from rsdistill.errors import OptionError, PolicyError, UnknownNameError
from rsdistill.sensitive.policy import Policy
from rsdistill.sensitive.resolved import PolicyRecord, ResolvedPolicy
from rsdistill.utils.options import parse_options


class _SourceView(SceneSource):
    """Some chips of a source, with its facts.

    Args:
        source: All chips.
        positions: Which of them, (n,); None for all.
    """

    def __init__(self, source: SceneSource, positions: NDArray[np.int64] | None = None) -> None:
        self._source = source
        self._positions = np.arange(len(source), dtype=np.int64) if positions is None else positions
        self.name, self.classes, self.bands, self.gsd = source.name, source.classes, source.bands, source.gsd
        self.licence, self.citation, self.published_split = source.licence, source.citation, source.published_split
        self.policy = source.policy
        self.labels = np.asarray(source.labels, np.int64)[self._positions]
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


class FittedScenes(_SourceView):
    """The chips of a source at another size and with some of its bands.

    Smaller chips hold the means of what they cover, larger ones are interpolated linearly; pixels without a
    measurement count in neither. What is no square is cut to its central one.

    Args:
        source: All chips.
        bands: Bands of the source to take, in the order wanted.
        size: Pixels on a side; None keeps the chips' own. The GSD changes with it.
    """

    def __init__(self, source: SceneSource, bands: BandSet, size: int | None = None) -> None:
        super().__init__(source)
        self.bands, self.size = bands, size
        self._planes = source.bands.indices(bands.names)
        if size is not None and len(source):
            self.gsd = source.gsd * min(source.read(0).shape[-2:]) / size

    def read(self, index: int) -> NDArray[Any]:
        """One chip (B, size, size); see :meth:`SceneSource.read`."""
        pixels = super().read(index)[self._planes]
        return pixels if self.size is None else to_cells(pixels, self.size, self.bands)


class GovernedScenes(_SourceView):
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
        place = {info.key: label for label, info in enumerate(classes)}
        labels = np.array([place.get(target.get(info.key, ""), -1) for info in source.classes], np.int64)[source.labels]
        super().__init__(source, np.flatnonzero(labels >= 0))
        self.classes, self.policy = tuple(classes), policy
        self.labels = labels[self._positions]


def with_classes(source: SceneSource, keys: Sequence[str]) -> SceneSource:
    """A source with these of its classes alone, in its own order.

    Raises:
        UnknownNameError: If a class is unknown.
    """
    wanted = chosen_classes(source.name, [info.key for info in source.classes], keys)
    kept = [info for info in source.classes if info.key in wanted]
    return GovernedScenes(source, kept, {key: key for key in wanted}, source.policy)


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


_SHARED = ("root", "size", "bands", "classes")


@dataclass(frozen=True)
class LoaderOptions:
    """What the loader does for a source that does not do it itself.

    Attributes:
        size: Pixels on a side that chips are brought to; None keeps their own.
        bands: Names of the bands to take, or the sensor's name; None for all.
        classes: Keys of the classes to take; None for all.
    """

    size: Annotated[int, Field(ge=1)] | None = None
    bands: str | tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None


def source_options(
    name: str, given: Mapping[str, Any], options: Mapping[str, Any], where: str = ""
) -> tuple[dict[str, Any], LoaderOptions]:
    """Part what a user gave into what a source takes itself and what the loader does for it.

    Args:
        name: Registered name of the dataset.
        given: Any of ``root``, ``size``, ``bands`` and ``classes``; None is not given.
        options: The dataset's own options; they come before those of the same name in ``given``.
        where: Dotted path of the options, for messages.

    Returns:
        Arguments of the source's constructor, and what is left for the loader.

    Raises:
        UnknownNameError: If neither knows an option; it names the nearest one.
        OptionError: If a value does not fit, or a root is given to a source that reads no files.
    """
    factory = DATASETS.get(name).factory
    where = where or f"{DATASETS.kind}.{name}"
    asked = {option: value for option, value in given.items() if value is not None} | dict(options)
    takes = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return DATASETS.parse(name, asked, where), LoaderOptions()
    left = {option: asked.pop(option) for option in _SHARED if option in asked and option not in takes}
    if left.pop("root", None) is not None:
        raise OptionError(f"option root (data.root in a config): dataset '{name}' reads no files; leave it out")
    known = [*takes, *(option for option in _SHARED if option != "root" and option not in takes)]
    for option in asked:
        # Old names are left to the check of the source's own.
        if option not in takes and option not in getattr(factory, "RENAMED", {}):
            raise UnknownNameError(f"option of {where}", str(option), known)
    return DATASETS.parse(name, asked, where), parse_options(LoaderOptions, left, where)


def check_data_options(name: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of a dataset as loading it would, without loading it.

    Args:
        name: Registered name of the dataset.
        given: Any of ``root``, ``size``, ``bands`` and ``classes``; None is not given.
        options: The dataset's own options, ``data.options`` of a config.

    Returns:
        All of them, brought to their types: what :func:`load_scenes` and :func:`resolve_policy` take.

    Raises:
        UnknownNameError: If an option is unknown.
        OptionError: If a value does not fit.
    """
    taken, left = source_options(name, given, options, "data.options")
    return taken | {option: value for option, value in vars(left).items() if value is not None}


def create_source(name: str, options: Mapping[str, Any], resolved: ResolvedPolicy | None = None) -> SceneSource:
    """All chips of a dataset, of the size, bands and classes asked for.

    Args:
        name: Registered name of the dataset.
        options: Its own options, and ``root``, ``size``, ``bands`` and ``classes``.
        resolved: Classes that it excludes are left out; None leaves out none.

    Raises:
        UnknownNameError: If an option, a class or a band is unknown.
        DatasetError: If the dataset is missing or damaged.
    """
    taken, left = source_options(name, {}, options)
    source = DATASETS.get(name).factory(**taken)
    if left.classes is not None:
        source = with_classes(source, left.classes)
    if resolved is not None:
        source = without_excluded(source, resolved)
    if left.size is None and left.bands is None:
        return source
    return FittedScenes(source, chosen_bands(source.bands, left.bands), left.size)


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

    Every dataset takes ``size``, ``bands`` and ``classes``: files are resampled, rendered scenes are rendered so, and
    what a dataset does not take itself is done with its chips. What is None is left to the dataset.

    Args:
        name: One of :func:`list_datasets`.
        root: Folder of the dataset; datasets that are rendered need none.
        split: How to cut; or give ``scheme``, ``train``, ``val`` and ``seed`` one by one.
        scheme: ``"stratified"`` unless given, ``"published"`` or ``"torchgeo"``.
        train: Share of each class to learn from.
        val: Share of train to cut off for validation.
        seed: Seed of the split, and of nothing else: rendered scenes have an option ``scene_seed``.
        size: Pixels on a side of every chip; the GSD changes with it.
        bands: Names of the bands to take, in the order wanted, or a sensor's name.
        classes: Keys of the classes to take; no chip of another is read.
        policy: What is to be done with sensitive classes, or the YAML file that says it; no chip of an
            excluded class is read. The split is that of the same dataset without the policy.
        **options: The dataset's own options, such as ``download``.

    Returns:
        Views that share no chip.

    Raises:
        UnknownNameError: If the name, an option, a class or a band is unknown.
        DatasetError: If the dataset is missing or damaged.
        PolicyError: If the policy is not valid or does not fit the dataset.
        SplitError: If it cannot be cut as asked.
    """
    given = {"root": root, "size": size, "bands": bands, "classes": classes}
    options |= {option: value for option, value in given.items() if value is not None}
    if split is None:
        split = SplitOptions(scheme or "stratified", train, val, seed or 0)
    elif any(value is not None for value in (scheme, train, val, seed)):
        raise OptionError("give either split, or scheme, train, val and seed; not both")
    if policy is not None and not isinstance(policy, Policy):
        policy = Policy.load(policy)
    return load_scenes(name, options, split, policy)


def load_scenes(name: str, options: Mapping[str, Any], split: SplitOptions, policy: Policy | None = None) -> SceneData:
    """Open a dataset with all options in one mapping, and cut it; see :func:`load_dataset`.

    Args:
        name: One of :func:`list_datasets`.
        options: The dataset's own options, and ``root``, ``size``, ``bands`` and ``classes``.
        split: How to cut.
        policy: What is to be done with sensitive classes; None for nothing.
    """
    if policy is None:
        return split_scenes(create_source(name, options), split)
    resolved = resolve_policy(policy, name, options)
    if known_classes(name, options) is None:
        source = create_source(name, options, resolved)
    else:
        source = create_source(name, {"classes": resolved.read, **options})
    return merged(split_scenes(source, split), resolved)


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
        known = DATASETS.get(name).factory(**source_options(name, {}, options)[0]).classes
    return _asked_for(policy.resolve(known, name), options)


def known_classes(name: str, options: Mapping[str, Any]) -> tuple[ClassInfo, ...] | None:
    """All classes of a dataset by its registered name; see :meth:`SceneSource.known_classes`."""
    tell = getattr(DATASETS.get(name).factory, "known_classes", None)
    found: tuple[ClassInfo, ...] | None = None if tell is None else tell(options)
    return found


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
