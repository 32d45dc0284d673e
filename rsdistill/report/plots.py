"""Accuracy beside leakage, as a plot of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rsdistill.errors import OptionError
from rsdistill.evaluation.results import EvaluationReport, Row
from rsdistill.training.callbacks import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by most colour-blind readers (Okabe and Ito, 2008).
GENERATED, REAL, REFERENCE = "#0072B2", "#D55E00", "#666666"
# Inches; the width of the page on a screen.
WIDTH = 11.0


def set_style(synthetic: bool) -> tuple[str, str]:
    """Name and colour of a distilled set: generated images differ from selected real chips."""
    return ("distilled", GENERATED) if synthetic else ("selected", REAL)


def plain_frame(axes: Axes) -> None:
    """Axes without a frame above and to the right, grid lines beneath the marks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


# Points that a noisy curve is averaged over, and the least that are worth it.
_SMOOTH, _LEAST = 9, 30


def training_curves(logs: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Losses on the left, accuracies (named ``..._oa...``) on the right, a row a stage.

    What was measured on validation data has marks; long noisy curves are shown with their running mean.

    Args:
        logs: What :func:`rsdistill.training.callbacks.training_log` read, by the name of the stage.

    Raises:
        OptionError: If nothing was logged.
    """
    from matplotlib.figure import Figure

    logs = {stage: curves for stage, curves in logs.items() if curves}
    if not logs:
        raise OptionError("no stage has a training log; train in a folder, which keeps one")
    figure = Figure(figsize=(WIDTH, 3.0 * len(logs)), dpi=144, layout="constrained")
    for (stage, curves), (left, right) in zip(logs.items(), figure.subplots(len(logs), 2, squeeze=False), strict=True):
        shares = {name: curve for name, curve in curves.items() if "_oa" in name}
        _draw(left, {name: curve for name, curve in curves.items() if name not in shares}, f"{stage}: loss")
        if shares:
            percent = {name: (steps, [100 * value for value in values]) for name, (steps, values) in shares.items()}
            _draw(right, percent, f"{stage}: accuracy, %")
        else:
            right.set_axis_off()
    return figure


def _draw(axes: Axes, curves: Mapping[str, Curve], title: str) -> None:
    for number, (name, (steps, values)) in enumerate(sorted(curves.items())):
        colour, label = f"C{number}", name.replace("_", " ")
        if name.startswith("val"):
            axes.plot(steps, values, color=colour, marker="o", markersize=3, linewidth=1.4, label=label)
        elif len(values) < _LEAST:
            axes.plot(steps, values, color=colour, linewidth=1.2, label=label)
        else:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
            mean = np.convolve(values, np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
            middle = _SMOOTH // 2
            axes.plot(steps[middle : len(steps) - middle], mean, color=colour, linewidth=1.4, label=label)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("optimiser steps")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.legend(fontsize=7, frameon=False)
    plain_frame(axes)


# Told apart by shape where there is no colour.
_MARKERS = {GENERATED: "o", REAL: "s"}


def accuracy_against_leakage(evaluation: EvaluationReport) -> Figure:
    """Overall accuracy of each method beside the share of its images whose nearest neighbour is a training chip.

    Bars on the left are standard deviations over students; on the right they are 95 % intervals.

    Args:
        evaluation: Rows to show; training on all real chips is drawn as a line.

    Raises:
        OptionError: If no row has leakage figures.
    """
    from matplotlib.figure import Figure

    rows = [row for row in evaluation.rows if row.held_out_null is not None]
    if not rows:
        raise OptionError("the evaluation has no row with leakage figures; evaluate at least one distilled set")
    figure = Figure(figsize=(WIDTH, 1.5 + 0.42 * len(rows)), dpi=144, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    for position, row in enumerate(rows):
        _accuracy_mark(left, position, row)
        _leakage_mark(right, position, row)
    for row in evaluation.rows:
        if row.held_out_null is None:
            left.axvline(100 * row.oa, color=REFERENCE, linestyle="--", linewidth=1)
            left.text(100 * row.oa, -0.62, "all real chips ", ha="right", va="center", fontsize=8, color=REFERENCE)
    right.axvline(50, color=REFERENCE, linestyle="--", linewidth=1)
    right.text(49, -0.62, "no leak: 50 %", ha="right", va="center", fontsize=8, color=REFERENCE)
    right.set_xlim(0, 104)
    left.margins(x=0.12)
    left.set_yticks(range(len(rows)), [_row_name(row, rows) for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.95)
    left.set_xlabel("overall accuracy on test chips, %")
    right.set_xlabel("nearest neighbour is a training chip, %")
    for axes in (left, right):
        plain_frame(axes)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    _legend(figure, rows)
    return figure


def _accuracy_mark(axes: Axes, position: int, row: Row) -> None:
    spread = None if row.oa_std is None else 100 * row.oa_std
    axes.errorbar(100 * row.oa, position, xerr=spread, **_style(row))


def _leakage_mark(axes: Axes, position: int, row: Row) -> None:
    rate, interval = row.held_out_null, None
    assert rate is not None  # the caller's choice of rows
    if row.held_out_low is not None and row.held_out_high is not None:
        interval = [[100 * (rate - row.held_out_low)], [100 * (row.held_out_high - rate)]]
    axes.errorbar(100 * rate, position, xerr=interval, **_style(row))


def _style(row: Row) -> dict[str, Any]:
    colour = GENERATED if row.synthetic else REAL
    return {"fmt": _MARKERS[colour], "color": colour, "markersize": 6, "capsize": 3, "linewidth": 1.4}


def _row_name(row: Row, rows: Sequence[Row]) -> str:
    """Method, with what tells it from other rows of the same name."""
    parts = [row.method]
    if row.ipc is not None:
        parts.append(f"IPC {row.ipc}")
    if any(other.track != row.track for other in rows):
        parts.append(f"{row.track} labels")
    return ", ".join(parts)


def _legend(figure: Figure, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    kinds = {True: ("generated images", GENERATED), False: ("real chips", REAL)}
    shown = [kinds[kind] for kind in (True, False) if any(row.synthetic is kind for row in rows)]
    handles = [Line2D([], [], color=c, marker=_MARKERS[c], linestyle="none", label=name) for name, c in shown]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
