"""Which chips a method learnt from, as a digest that names none of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsdistill.datasets.base import SceneData
from rsdistill.errors import UnknownNameError
from rsdistill.provenance import digest

_SALT = "rsdistill train view"
_LENGTH = 32


def class_digests(data: SceneData) -> dict[str, str]:
    """Digest of the train chips of each class, by its key; of a prepared dataset those of its originals."""
    # A prepared dataset has lost the names of its originals, and kept these digests instead.
    kept = getattr(data.source, "train_digests", None)
    stored: dict[str, str] | None = None if kept is None else kept(data.train.indices)
    if stored is not None:
        return stored
    names, labels = np.asarray(data.train.chip_ids, object), data.train.labels
    return {
        info.key: digest([_SALT, data.name, info.key, sorted(names[labels == label])])
        for label, info in enumerate(data.classes)
    }


def split_digest(data: SceneData, classes: Sequence[str] | None = None) -> str:
    """Digest of the train view: equal for equal chips, whatever order, size or bands they are read in.

    Args:
        data: The dataset.
        classes: Keys of the classes that count; None for all.

    Raises:
        UnknownNameError: If a class is unknown.
    """
    known = class_digests(data)
    keys = sorted(known if classes is None else classes)
    for key in keys:
        if key not in known:
            raise UnknownNameError(f"class of {data.name}:", key, known)
    return digest([[key, known[key]] for key in keys])[:_LENGTH]
