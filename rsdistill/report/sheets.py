"""Contact sheets: real chips next to distilled images, all under one stretch.

A sheet is one mosaic of pixels with text beside it, not an axis a picture: quick to draw for many
classes, and every pixel of a chip takes the same whole number of pixels where it fits.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
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
from rsdistill.imaging.composites import Limits, composite_wavelengths, stretch_limits, to_rgb
from rsdistill.imaging.pixels import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]

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
    rows: Sequence[Sequence[Picture]]


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

    def pictures(images: NDArray[Any]) -> Sequence[Picture]:
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


def _fitted(picture: Picture) -> Picture:
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


def _place(mosaic: Picture, picture: Picture | None, top: int, left: int) -> None:
    """Put a picture into the middle of its cell; an absent one leaves a grey cell."""
    cell = mosaic[top : top + _CELL, left : left + _CELL]
    if picture is None:
        cell[:] = _EMPTY
        return
    height, width = picture.shape[:2]
    down, right = (_CELL - height) // 2, (_CELL - width) // 2
    cell[down : down + height, right : right + width] = picture
