"""What an evaluation found: rows, as a table, a data frame or plain types, and the store of finished parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsdistill.errors import ArtifactError, storage_errors
from rsdistill.evaluation.leakage import Leakage
from rsdistill.evaluation.metrics import ACCURACIES, Scores
from rsdistill.utils.io import write_json
from rsdistill.utils.options import plain

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One method at one size, trained on one kind of label. All figures are fractions.

    Attributes:
        method: Name of the method; ``full`` is training on all real training chips.
        ipc: Images per class; None for ``full``.
        student: Name of the student.
        label_type: ``hard`` or ``soft`` labels.
        synthetic: Whether the images were generated; False where they are real chips.
        oa: Mean overall accuracy over all students.
        oa_std: Its standard deviation (n - 1); None for a single student.
        aa: Mean average accuracy.
        aa_std: Its standard deviation.
        kappa: Mean of Cohen's kappa.
        kappa_std: Its standard deviation.
        held_out_null: Share of images whose nearest real neighbour is a training chip, over all sets of
            the method; 0.5 is what no leak would give. None for ``full``, as the next three.
        held_out_low: Lower limit of its 95 % Clopper-Pearson interval.
        held_out_high: Upper limit of it.
        copy_rate: Share of images whose copy ratio is under 1/3.
        sets: Number of generated sets; 1 for ``full``.
        n: Number of students: sets x training seeds.
        bytes: Storage of one set, mean over the sets: pixels, and hard or soft labels as the label type says.
        extra: Further metrics: the mean by name, and its standard deviation by name and ``_std``.
    """

    method: str
    ipc: int | None
    student: str
    label_type: str
    synthetic: bool
    oa: float
    oa_std: float | None
    aa: float
    aa_std: float | None
    kappa: float
    kappa_std: float | None
    held_out_null: float | None
    held_out_low: float | None
    held_out_high: float | None
    copy_rate: float | None
    sets: int
    n: int
    bytes: int
    extra: Mapping[str, float | None] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls,
        method: str,
        ipc: int | None,
        student: str,
        label_type: str,
        synthetic: bool,
        scores: Sequence[Scores],
        leak: Leakage | None,
        sets: int,
        size_bytes: int,
    ) -> Row:
        """Summarise the scores of several students and the leakage of several sets."""
        accuracy: dict[str, Any] = {}
        for name in ACCURACIES:
            accuracy |= _mean_and_std(name, [getattr(score, name) for score in scores])
        extra: dict[str, float | None] = {}
        for name in scores[0].extra:
            extra |= _mean_and_std(name, [score.extra[name] for score in scores])
        low, high = leak.held_out_null.interval if leak else (None, None)
        return cls(
            method=method,
            ipc=ipc,
            student=student,
            label_type=label_type,
            synthetic=synthetic,
            **accuracy,
            held_out_null=leak.held_out_null.rate if leak else None,
            held_out_low=low,
            held_out_high=high,
            copy_rate=leak.copy_ratio.share if leak else None,
            sets=sets,
            n=len(scores),
            bytes=size_bytes,
            extra=extra,
        )

    @property
    def extra_names(self) -> tuple[str, ...]:
        """Names of the further metrics."""
        return tuple(name for name in self.extra if f"{name}_std" in self.extra)

    def flat(self) -> dict[str, Any]:
        """All figures in one mapping, the further metrics last."""
        values: dict[str, Any] = asdict(self)
        extra: dict[str, Any] = values.pop("extra")
        return values | extra


@dataclass(frozen=True)
class EvaluationReport:
    """The rows of an evaluation and what they were measured with.

    Attributes:
        dataset: Name of the dataset.
        recipe: The recipe as plain types.
        seeds: Training seeds of each set.
        test_chips: Number of test chips scored on.
        rows: One a method, size and kind of label.
    """

    dataset: str
    recipe: Mapping[str, Any]
    seeds: tuple[int, ...]
    test_chips: int
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; :meth:`from_dict` reads them back."""
        return dict(plain(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationReport:
        """Rebuild a report from :meth:`to_dict`."""
        rows = tuple(Row(**row) for row in values["rows"])
        return cls(values["dataset"], values["recipe"], tuple(values["seeds"]), values["test_chips"], rows)

    def to_frame(self) -> pd.DataFrame:
        """The rows as a data frame; figures are fractions."""
        import pandas as pd

        return pd.DataFrame([row.flat() for row in self.rows])

    def table(self) -> str:
        """The rows as plain text, in percent; each value is followed by its standard deviation over students."""
        header = ("method", "IPC", "images", "student", "labels", "OA %", "AA %", "kappa")
        leaks = ("train neighbour % (95 %)", "copies %", "n")
        extra = tuple(dict.fromkeys(name for row in self.rows for name in row.extra_names))
        lines = [(*header, *extra, *leaks), *(_cells(row, extra) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        padded.insert(1, "-" * len(padded[0]))
        notes = (
            f"{self.dataset}: {self.test_chips} test chips, final step, mean ± standard deviation over n students "
            f"(sets x training seeds).",
            "Train neighbour: how often the nearest of all real chips of the class is a train chip, corrected by its "
            "odds for unequal numbers of train and held-out chips; 50 % without leakage.",
            "Copies: copy ratio under 1/3. Audits can show leakage but cannot prove its absence.",
        )
        return "\n".join([*(line.rstrip() for line in padded), *notes])


def _mean_and_std(name: str, values: Sequence[float]) -> dict[str, float | None]:
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {name: float(np.mean(values)), f"{name}_std": std}


def _cells(row: Row, extra: Sequence[str]) -> tuple[str, ...]:
    null = percent(row.held_out_null, digits=0)
    if row.held_out_low is not None and row.held_out_high is not None:
        null += f" ({100 * row.held_out_low:.0f} to {100 * row.held_out_high:.0f})"
    return (
        row.method,
        "all" if row.ipc is None else str(row.ipc),
        "generated" if row.synthetic else "real",
        row.student,
        row.label_type,
        percent(row.oa, row.oa_std),
        percent(row.aa, row.aa_std),
        _decimal(row.kappa, row.kappa_std),
        *(_decimal(row.extra.get(name), row.extra.get(f"{name}_std")) for name in extra),
        null,
        percent(row.copy_rate, digits=0),
        str(row.n),
    )


def _decimal(value: float | None, std: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + ("" if std is None else f" ± {std:.3f}")


def percent(value: float | None, std: float | None = None, digits: int = 1, missing: str = "-") -> str:
    """A fraction in percent without its sign, with its standard deviation where there is one."""
    if value is None:
        return missing
    return f"{100 * value:.{digits}f}" + ("" if std is None else f" ± {100 * std:.{digits}f}")


class Store:
    """Finished parts of an evaluation as small files, so that a killed run continues.

    Args:
        folder: Where they lie; None keeps nothing.

    Raises:
        StorageError: If the folder cannot be written.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            with storage_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)

    def load(self, key: str) -> dict[str, Any] | None:
        """What was saved under a key, or None.

        Raises:
            ArtifactError: If the file cannot be read.
        """
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); delete it to compute it again") from error

    def save(self, key: str, values: Mapping[str, Any]) -> None:
        """Keep values under a key; the file is complete or absent.

        Raises:
            StorageError: If the folder cannot be written.
        """
        path = self._path(key)
        if path is not None:
            write_json(path, dict(values))

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{key[:24]}.json"
