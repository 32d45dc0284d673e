"""How training went, as a plot of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rsdistill.errors import OptionError
from rsdistill.report.style import WIDTH, plain_frame
from rsdistill.training_log import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points that a noisy curve is averaged over, and the least that are worth it.
_SMOOTH, _LEAST = 9, 30


def training_curves(logs: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Losses on the left, accuracies (named ``..._oa...``) on the right, a row a stage.

    What was measured on validation data has marks; long noisy curves are shown with their running mean.

    Args:
        logs: What :func:`rsdistill.training_log.training_log` read, by the name of the stage.

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
