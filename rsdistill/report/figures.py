"""Pictures of the report: training curves, accuracy beside leakage, and contact sheets.

A sheet shows real chips next to distilled images, all under one stretch. It is one mosaic of pixels with text
beside it, not an axis a picture: quick to draw for many classes, and every pixel of a chip takes the same whole
number of pixels where it fits.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import NATURAL_COLOUR
from rsdistill.datasets.base import SceneData
from rsdistill.datasets.real_chips import class_chips
from rsdistill.distilled import DistilledSet
from rsdistill.errors import OptionError
from rsdistill.evaluation.leakage import aligned
from rsdistill.evaluation.results import EvaluationReport, Row
from rsdistill.imaging.composites import Limits, composite_wavelengths, stretch_limits, to_rgb
from rsdistill.imaging.pixels import spread
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
        left.errorbar(100 * row.oa, position, xerr=None if row.oa_std is None else 100 * row.oa_std, **_style(row))
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
    if any(other.label_type != row.label_type for other in rows):
        parts.append(f"{row.label_type} labels")
    return ", ".join(parts)


def _legend(figure: Figure, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    kinds = {True: ("generated images", GENERATED), False: ("real chips", REAL)}
    shown = [kinds[kind] for kind in (True, False) if any(row.synthetic is kind for row in rows)]
    handles = [Line2D([], [], color=c, marker=_MARKERS[c], linestyle="none", label=name) for name, c in shown]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9)


RgbImage = NDArray[np.uint8]

# Pixels on paper: longest side of a picture, space between pictures, space between blocks.
_CELL, _GAP, _BETWEEN = 128, 6, 34
_DPI = 144
_FONT = 9
# Width of a letter and height of a line at that size and resolution, and where long class names wrap.
_LETTER, _LINE, _WRAP = 11, 23, 18
_EMPTY = 244
# Chips that set the stretch.
_STRETCH_CHIPS = 64


@dataclass(frozen=True)
class _Block:
    """Some columns of a sheet under one heading; a list of pictures for each row."""

    title: str
    columns: int
    rows: Sequence[Sequence[RgbImage]]


def contact_sheet(
    data: SceneData,
    tiles: DistilledSet,
    classes: Sequence[str] | None = None,
    columns: int = 5,
    colour: str = "natural",
    *,
    show_real: bool = True,
    limits: Limits | None = None,
) -> Figure:
    """Real training chips next to distilled images, a row a class.

    Args:
        data: The dataset that the set was made from.
        tiles: The distilled set.
        classes: Keys of the classes to show; None for all that the set has.
        columns: Pictures of each kind; the chips are spread evenly over the class, the distilled
            images are its first.
        colour: ``"natural"`` or ``"false"`` (near infrared shown as red), bands by wavelength.
        show_real: Whether to show the real chips.
        limits: Black and white points; None for :func:`shared_limits`.

    Raises:
        OptionError: If the colour is unknown, or there is no column or class to show.
        UnknownNameError: If a class is unknown.
        BandError: If set and dataset differ in bands, or false colour is asked for without near infrared.
    """
    tiles, wavelengths = aligned(tiles, data), composite_wavelengths(colour, data.bands)
    labels = shown_labels(data, tiles, classes)
    if columns < 1:
        raise OptionError(f"columns is {columns}; a contact sheet needs 1 or more")
    limits = limits or shared_limits(data, colour)

    def pictures(images: NDArray[Any]) -> Sequence[RgbImage]:
        return [_fitted(p) for p in to_rgb(images, data.bands, wavelengths, limits)] if len(images) else []

    blocks = []
    if show_real:
        real = [pictures(class_chips(data.train, label, columns)) for label in labels]
        blocks.append(_Block("original training chips", columns, real))
    made = [pictures(tiles.image[tiles.label == label][:columns]) for label in labels]
    most = max(1, *(len(row) for row in made))
    title = "distilled images" if tiles.is_synthetic else "selected set (real pixels)"
    blocks.append(_Block(title, min(columns, most), made))
    return _sheet([data.classes[label].name for label in labels], blocks)


def nearest_sheet(
    data: SceneData, tiles: DistilledSet, nearest: Sequence[int] | NDArray[np.int64], most: int = 8
) -> Figure:
    """Distilled images beside the training chips that are nearest to them, to judge copies by eye.

    Args:
        data: The dataset that the set was made from.
        tiles: The distilled set.
        nearest: Position in ``data.train`` of the chip nearest to each sample, (sample,).
        most: Number of pairs shown, spread evenly over the set.

    Raises:
        OptionError: If there is not one position a sample, or one lies outside the training chips.
        BandError: If set and dataset differ in bands.
    """
    tiles, positions = aligned(tiles, data), np.asarray(nearest, np.int64)
    if positions.shape != (len(tiles),) or not len(tiles):
        raise OptionError(f"{len(positions)} nearest chips do not fit {len(tiles)} samples; give one position each")
    if positions.min() < 0 or positions.max() >= len(data.train):
        raise OptionError(f"nearest chips must be positions from 0 to {len(data.train) - 1} in the training chips")
    chosen = spread(len(tiles), most)
    limits = shared_limits(data)
    made = to_rgb(tiles.image[chosen], data.bands, NATURAL_COLOUR, limits)
    real = to_rgb(data.train.images(positions[chosen]), data.bands, NATURAL_COLOUR, limits)
    blocks = [
        _Block(data.classes[label].name, 1, [[_fitted(tile)], [_fitted(chip)]])
        for label, tile, chip in zip(tiles.label[chosen], made, real, strict=True)
    ]
    return _sheet(["distilled", "nearest training chip"], blocks)


def shared_limits(data: SceneData, colour: str = "natural") -> Limits:
    """Black and white points from training chips of all classes, for every sheet that is to be compared.

    Raises:
        OptionError: If the colour is unknown.
        BandError: If false colour is asked for and there is no near infrared.
    """
    wavelengths = composite_wavelengths(colour, data.bands)
    return stretch_limits(data.train.images(spread(len(data.train), _STRETCH_CHIPS)), data.bands, wavelengths)


def shown_labels(data: SceneData, tiles: DistilledSet, classes: Sequence[str] | None) -> list[int]:
    """Positions of the classes asked for by key, or of all that the (aligned) set has.

    Raises:
        UnknownNameError: If a class is unknown.
        OptionError: If there is none.
    """
    chosen = np.unique(tiles.label).tolist() if classes is None else [data.class_index(key) for key in classes]
    if not chosen:
        raise OptionError("there is no class to show; name one, or pass a set that has images")
    return chosen


def _fitted(picture: RgbImage) -> RgbImage:
    """A picture (H, W, 3) brought to the cell: enlarged pixel by pixel, or reduced with a filter."""
    from PIL import Image

    height, width = picture.shape[:2]
    factor = _CELL / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(picture).resize(size, method))


def _sheet(names: Sequence[str], blocks: Sequence[_Block]) -> Figure:
    """Draw blocks side by side, a named row each, so that a mosaic pixel is a pixel of the figure."""
    from matplotlib.figure import Figure

    wrapped = [_wrapped(name, _WRAP) for name in names]
    left = 20 + _LETTER * max(len(line) for name in wrapped for line in name.splitlines())
    starts, width = [], 0
    for block in blocks:
        starts.append(width)
        width += block.columns * (_CELL + _GAP) - _GAP + _BETWEEN
    width -= _BETWEEN
    height = len(names) * (_CELL + _GAP) - _GAP
    mosaic = np.full((height, width, 3), 255, np.uint8)
    for start, block in zip(starts, blocks, strict=True):
        for row, pictures in enumerate(block.rows):
            for column in range(block.columns):
                picture = pictures[column] if column < len(pictures) else None
                _place(mosaic, picture, row * (_CELL + _GAP), start + column * (_CELL + _GAP))
    titles = [_wrapped(block.title, max(8, block.columns * _CELL // _LETTER)) for block in blocks]
    header = _LINE * max(title.count("\n") + 1 for title in titles) + 2 * _GAP
    total = (left + width + _GAP, header + height + _GAP)
    figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI)
    axes = figure.add_axes((left / total[0], _GAP / total[1], width / total[0], height / total[1]))
    axes.imshow(mosaic, interpolation="none", aspect="auto", extent=(0, width, height, 0))
    axes.set_axis_off()
    for row, name in enumerate(wrapped):
        axes.text(-12, row * (_CELL + _GAP) + _CELL / 2, name, ha="right", va="center", fontsize=_FONT)
    for start, block, title in zip(starts, blocks, titles, strict=True):
        middle = start + (block.columns * (_CELL + _GAP) - _GAP) / 2
        axes.text(middle, -8, title, ha="center", va="bottom", fontsize=_FONT, color="#444444")
    return figure


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)


def _place(mosaic: RgbImage, picture: RgbImage | None, top: int, left: int) -> None:
    """Put a picture into the middle of its cell; an absent one leaves a grey cell."""
    cell = mosaic[top : top + _CELL, left : left + _CELL]
    if picture is None:
        cell[:] = _EMPTY
        return
    height, width = picture.shape[:2]
    down, right = (_CELL - height) // 2, (_CELL - width) // 2
    cell[down : down + height, right : right + width] = picture
