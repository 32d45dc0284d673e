"""The log of a fit, read back as one, however often the fit was stopped."""

from __future__ import annotations

import csv
from pathlib import Path

from rsdistill.errors import ArtifactError

LOG = "log"
_PART = "from_step_"
# Steps done, and the value after each.
Curve = tuple[list[int], list[float]]


def part_name(step: int) -> str:
    """Folder, within the log, of what is logged from a step on."""
    return f"{_PART}{step}"


def training_log(folder: str | Path) -> dict[str, Curve]:
    """Curves that a fit logged: names to numbers of optimiser steps done and the values there.

    A fit that was killed logs from its last checkpoint on anew. What it had logged beyond that is left out,
    so that the log is that of a fit that was never stopped.

    Args:
        folder: Folder of the log, which :func:`rsdistill.training.fit` wrote; without one there are no curves.

    Raises:
        ArtifactError: If a file of the log cannot be read.
    """
    parts = sorted((int(path.parent.name.removeprefix(_PART)), path) for path in Path(folder).glob(f"{_PART}*/*.csv"))
    ends = [start for start, _ in parts[1:]]
    curves: dict[str, Curve] = {}
    for number, (_, path) in enumerate(parts):
        for step, name, value in _rows(path):
            if number < len(ends) and step > ends[number]:
                continue
            steps, values = curves.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    return curves


def _rows(path: Path) -> list[tuple[int, str, float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                (int(row["step"]) + 1, name, float(value))
                for row in csv.DictReader(file)
                for name, value in row.items()
                if name != "step" and value
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as a training log ({error}); delete it") from error
