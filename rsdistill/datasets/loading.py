"""Datasets by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsdistill.datasets.base import DATASETS, SceneData
from rsdistill.datasets.splits import SplitOptions, split_scenes
from rsdistill.errors import OptionError


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
        **options: Further options of the dataset, such as ``download``.

    Returns:
        Views that share no chip.

    Raises:
        UnknownNameError: If the name, an option, a class or a band is unknown.
        DatasetError: If the dataset is missing or damaged.
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
    return split_scenes(DATASETS.create(name, **options), split)
