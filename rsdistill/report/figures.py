"""Plots of a report: accuracy beside leakage, and the mean spectra of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.audit.alignment import aligned
from rsdistill.bands import BandSet
from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.errors import OptionError
from rsdistill.evaluation.results import EvaluationReport, Row
from rsdistill.report.sheets import class_chips, shown_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by most colour-blind readers (Okabe and Ito, 2008), and by shape where there is no colour.
_GENERATED, _REAL, _REFERENCE = "#0072B2", "#D55E00", "#666666"
_MARKERS = {_GENERATED: "o", _REAL: "s"}
# Chips a class whose mean and spread are drawn.
SPECTRUM_CHIPS = 64
_SPECTRA_ACROSS = 5
# Inches; the width of the page on a screen.
_WIDTH = 11.0


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
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.42 * len(rows)), dpi=144, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    for position, row in enumerate(rows):
        _accuracy_mark(left, position, row)
        _leakage_mark(right, position, row)
    for row in evaluation.rows:
        if row.held_out_null is None:
            left.axvline(100 * row.oa, color=_REFERENCE, linestyle="--", linewidth=1)
            left.text(100 * row.oa, -0.62, "all real chips ", ha="right", va="center", fontsize=8, color=_REFERENCE)
    right.axvline(50, color=_REFERENCE, linestyle="--", linewidth=1)
    right.text(49, -0.62, "no leak: 50 %", ha="right", va="center", fontsize=8, color=_REFERENCE)
    right.set_xlim(0, 104)
    left.margins(x=0.12)
    left.set_yticks(range(len(rows)), [_row_name(row, rows) for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.95)
    left.set_xlabel("overall accuracy on test chips, %")
    right.set_xlabel("nearest neighbour is a training chip, %")
    for axes in (left, right):
        _plain_frame(axes)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    _legend(figure, rows)
    return figure


def class_spectra(data: SceneData, tiles: DistilledSet, classes: Sequence[str] | None = None) -> Figure:
    """Mean spectrum of each class: real training chips and distilled images.

    Lines over wavelength where there are more than three bands of known wavelength, else points by band.
    The real mean is drawn with the standard deviation of the chips' means, over up to 64 chips a class.

    Args:
        data: The dataset that the set was made from.
        tiles: The distilled set.
        classes: Keys of the classes to show; None for all that the set has.

    Raises:
        OptionError: If there is no class to show.
        UnknownNameError: If a class is unknown.
        BandError: If set and dataset differ in bands.
    """
    from matplotlib.figure import Figure

    tiles = aligned(tiles, data)
    labels = shown_labels(data, tiles, classes)
    across = min(_SPECTRA_ACROSS, len(labels))
    down = math.ceil(len(labels) / across)
    figure = Figure(
        figsize=(max(4.0, _WIDTH / _SPECTRA_ACROSS * across), 0.9 + 1.6 * down), dpi=144, layout="constrained"
    )
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, label in zip(grid, labels, strict=False):
        real = _chip_means(class_chips(data.train, label, SPECTRUM_CHIPS), data.bands)
        made = _chip_means(tiles.image[tiles.label == label], data.bands)
        _spectrum(axes, data.bands, real, made, tiles.is_synthetic)
        axes.set_title(data.classes[label].name, fontsize=8.5)
        axes.tick_params(labelsize=7.5)
        _plain_frame(axes)
    for axes in grid[len(labels) :]:
        axes.set_visible(False)
    figure.supylabel("reflectance" if data.bands.scale != 1 else "pixel value", fontsize=9)
    figure.supxlabel("wavelength, µm" if over_wavelength(data.bands) else "band", fontsize=9)
    # matplotlib lists error bars last; the originals belong first.
    pairs = sorted(zip(*grid[0].get_legend_handles_labels(), strict=True), key=lambda pair: "original" not in pair[1])
    figure.legend(
        [handle for handle, _ in pairs],
        [name for _, name in pairs],
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=8.5,
    )
    return figure


def over_wavelength(bands: BandSet) -> bool:
    """Whether spectra of these bands are drawn as lines over wavelength."""
    return len(bands) > 3 and all(centre is not None for centre in bands.centres)


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
    colour = _GENERATED if row.synthetic else _REAL
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

    kinds = {True: ("generated images", _GENERATED), False: ("real chips", _REAL)}
    shown = [kinds[kind] for kind in (True, False) if any(row.synthetic is kind for row in rows)]
    handles = [Line2D([], [], color=c, marker=_MARKERS[c], linestyle="none", label=name) for name, c in shown]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9)


def _plain_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _chip_means(images: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Mean of the valid pixels of each chip and band in physical units, (n, B); NaN where none is valid."""
    values = np.asarray(images, np.float64)
    valid = np.isfinite(values)
    if bands.nodata is not None and not np.isnan(bands.nodata):
        valid &= values != bands.nodata
    total = np.where(valid, values, 0.0).sum(axis=(2, 3))
    counts = valid.sum(axis=(2, 3))
    means = np.full(total.shape, np.nan)
    np.divide(total, counts, out=means, where=counts > 0)
    return np.asarray(means * bands.scale + bands.offset)


def _spectrum(
    axes: Axes, bands: BandSet, real: NDArray[np.float64], made: NDArray[np.float64], synthetic: bool
) -> None:
    """One class: mean of the real chips with their spread, mean of the distilled images."""
    known = [centre for centre in bands.centres if centre is not None]
    order = np.argsort(known) if len(known) == len(bands) else np.arange(len(bands))
    real_mean, spread, made_mean = _nan_mean(real)[order], _nan_std(real)[order], _nan_mean(made)[order]
    name, colour = ("distilled", _GENERATED) if synthetic else ("selected", _REAL)
    if over_wavelength(bands):
        x = np.asarray(known)[order]
        axes.fill_between(
            x,
            real_mean - spread,
            real_mean + spread,
            color="#dddddd",
            linewidth=0,
            label="original chips, ± standard deviation",
        )
        axes.plot(x, real_mean, color="#333333", linewidth=1.2, linestyle="--", label="original chips, mean")
        axes.plot(x, made_mean, color=colour, linewidth=1.4, marker=".", label=f"{name}, mean")
        return
    x = np.arange(len(bands), dtype=np.float64)
    axes.errorbar(x - 0.1, real_mean, spread, fmt="_", color="#333333", capsize=2, label="original chips, mean ± std")
    axes.plot(x + 0.1, made_mean, color=colour, linestyle="none", marker="o", markersize=4, label=f"{name}, mean")
    axes.set_xticks(x, [bands.names[i] for i in order])
    axes.margins(x=0.2)


def _nan_mean(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over chips, (B,); NaN for bands without any."""
    counts = np.isfinite(means).sum(axis=0)
    return np.asarray(np.where(counts > 0, np.nansum(means, axis=0) / np.maximum(counts, 1), np.nan))


def _nan_std(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation over chips, (B,)."""
    return np.asarray(np.sqrt(_nan_mean((means - _nan_mean(means)) ** 2)))
