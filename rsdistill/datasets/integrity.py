"""One look at every chip when a dataset is loaded: what is readable, how large, and what is a copy."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from rsdistill.errors import ChipError, DatasetError

# A progress bar that flashes by is noise; one appears when a scan takes longer than this many seconds.
BAR_DELAY = 2.0
_BAD_SHARE, _BAD_MOST = 0.01, 20


class SkippedChipsWarning(UserWarning):
    """Some chips cannot be used, and the dataset goes on without them."""


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        good: Positions of the usable chips (n,), ascending.
        sides: Pixels on the shorter side of each usable chip (n,).
        groups: Group number of each usable chip (n,); exact copies share one.
    """

    good: NDArray[np.int64]
    sides: NDArray[np.int64]
    groups: NDArray[np.int64]


def workers() -> int:
    """Threads to read chips with: decoding releases Python's lock, more than a few gain nothing."""
    return min(8, os.cpu_count() or 1)


def scan(look: Callable[[int], NDArray[Any]], count: int, name: str, max_bad: int | None = None) -> Scan:
    """Decode every chip once.

    Args:
        look: Reads and checks the chip at a position; returns all pixels of its file (P, H, W).
        count: How many chips there are.
        name: Of the dataset, for messages.
        max_bad: Most unusable chips to go on without; None for one in a hundred, at least 1 and at most 20.

    Returns:
        The usable chips.

    Raises:
        DatasetError: If more chips than that cannot be used.
    """

    def examine(position: int) -> tuple[bytes, int] | ChipError:
        try:
            pixels = look(position)
        except ChipError as error:
            return error
        identity = f"{pixels.dtype}{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()
        return hashlib.blake2b(identity, digest_size=16).digest(), min(pixels.shape[-2:])

    with ThreadPoolExecutor(workers()) as pool:
        bar = tqdm(pool.map(examine, range(count)), f"scanning {name}", count, unit="chip", delay=BAR_DELAY)
        found = list(bar)
    bad = [result for result in found if isinstance(result, ChipError)]
    _report(bad, count, name, max_bad)
    good = [(position, *r) for position, r in enumerate(found) if not isinstance(r, ChipError)]
    positions, digests, sides = zip(*good, strict=True) if good else ((), (), ())
    groups = np.unique(np.array(digests, dtype="V16"), return_inverse=True)[1]
    return Scan(np.array(positions, np.int64), np.array(sides, np.int64), groups.astype(np.int64))


def _report(bad: list[ChipError], count: int, name: str, max_bad: int | None) -> None:
    """Warn of a few unusable chips, refuse many."""
    if not bad:
        return
    allowed = max(1, min(_BAD_MOST, int(count * _BAD_SHARE))) if max_bad is None else max_bad
    if len(bad) > allowed or len(bad) == count:
        raise DatasetError(
            f"dataset '{name}': {len(bad)} of {count} chips cannot be used, more than the {allowed} allowed by "
            f"max_bad; the first: {bad[0]}"
        )
    listed = "; ".join(str(error) for error in bad[:_BAD_MOST])
    more = f"; and {len(bad) - _BAD_MOST} more" if len(bad) > _BAD_MOST else ""
    warnings.warn(
        f"dataset '{name}': skipped {len(bad)} of {count} chips: {listed}{more}", SkippedChipsWarning, stacklevel=2
    )
