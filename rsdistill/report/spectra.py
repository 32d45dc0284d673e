"""Spectra and spectral indices of each class, real chips beside distilled images, as plots of the report."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.datasets.base import SceneData
from rsdistill.datasets.real_chips import class_chips
from rsdistill.distilled import DistilledSet
from rsdistill.evaluation.leakage import aligned
from rsdistill.evaluation.spectral import AGREEMENT_CHIPS, chip_spectra, class_agreement, finite_mean, index_distance
from rsdistill.imaging.spectral_indices import available, get_index, index_bands, index_values
from rsdistill.report.figures import WIDTH, plain_frame, set_style, shown_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 5
# Edges of the bins of an index, and the share of pixels that may lie beyond the plot on either side.
_BINS = np.linspace(-1, 1, 81).tolist()
_BEYOND = 0.1
_REAL_FILL, _REAL_LINE = "#dddddd", "#333333"
_ORIGINAL = "original chips"


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
    tiles = aligned(tiles, data)
    labels = shown_labels(data, tiles, classes)
    figure, grid = _small_multiples([data.classes[label].name for label in labels], share_y=True)
    for axes, label in zip(grid, labels, strict=True):
        real = chip_spectra(class_chips(data.train, label, AGREEMENT_CHIPS), data.bands)
        made = chip_spectra(tiles.image[tiles.label == label], data.bands)
        _spectrum(axes, data.bands, real, made, tiles.is_synthetic)
    figure.supylabel(_unit(data.bands), fontsize=9)
    figure.supxlabel("wavelength, µm" if over_wavelength(data.bands) else "band", fontsize=9)
    _legend(figure, grid[0])
    return figure


def index_histograms(
    data: SceneData, tiles: DistilledSet, name: str = "ndvi", classes: Sequence[str] | None = None
) -> Figure:
    """Distribution of a spectral index over the pixels of each class: real training chips and distilled images.

    Each curve encloses the same area. In the corner stands the Wasserstein-1 distance of both. Errors as of
    :func:`class_spectra`, and:

    Args:
        data: The dataset that the set was made from; up to 64 training chips a class are read.
        tiles: The distilled set.
        name: One of :func:`rsdistill.imaging.spectral_indices.list_indices`.
        classes: Keys of the classes to show; None for all that the set has.

    Raises:
        UnknownNameError: If there is no such index.
        BandError: If the bands do not allow it.
    """
    tiles, index = aligned(tiles, data), get_index(name)
    index_bands(name, data.bands)
    labels = shown_labels(data, tiles, classes)
    figure, grid = _small_multiples([data.classes[label].name for label in labels], share_y=False)
    ends = []
    for axes, label in zip(grid, labels, strict=True):
        real, made = class_chips(data.train, label, AGREEMENT_CHIPS), tiles.image[tiles.label == label]
        values = [index_values(name, images, data.bands) for images in (real, made)]
        _histogram(axes, values[0], values[1], tiles.is_synthetic)
        distance = index_distance(name, real, made, data.bands)
        if np.isfinite(distance):
            axes.text(0.98, 0.99, f"{distance:.3f}", ha="right", va="top", transform=axes.transAxes, fontsize=8)
        ends += [np.percentile(v, (_BEYOND, 100 - _BEYOND)) for v in values if len(v)]
    if ends:
        low, high = float(np.min(ends)), float(np.max(ends))
        grid[0].set_xlim(max(-1.0, low - 0.05), min(1.0, high + 0.05))
        grid[0].locator_params(axis="x", nbins=4)
    figure.supylabel("share of pixels", fontsize=9)
    figure.supxlabel(f"{index.title}; number in the corner: Wasserstein-1 distance of both distributions", fontsize=9)
    _legend(figure, grid[0])
    return figure


def spectral_agreement(data: SceneData, tiles: DistilledSet, classes: Sequence[str] | None = None) -> Figure:
    """How each class agrees with the real chips: correlation and distance of mean spectra, distance of indices.

    Arguments and errors as of :func:`class_spectra`.
    """
    from matplotlib.figure import Figure

    tiles = aligned(tiles, data)
    labels = shown_labels(data, tiles, classes)
    rows = class_agreement(tiles, data, [data.classes[label].key for label in labels])
    panels = {
        "correlation of mean spectra": [row.correlation for row in rows],
        f"distance of mean spectra, {_unit(data.bands)}": [row.distance for row in rows],
    }
    for name in available(data.bands):
        panels[f"distance of {get_index(name).title}"] = [row.indices[name] for row in rows]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.26 * len(rows)), dpi=144, layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    _, colour = set_style(tiles.is_synthetic)
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        axes.plot([np.nan if v is None else v for v in values], range(len(rows)), "o", color=colour, markersize=5)
        axes.set_xlabel(textwrap.fill(title, 14), fontsize=8.5)
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=3)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        plain_frame(axes)
        # Distances begin at none; correlations end at full agreement.
        low, high = axes.get_xlim()
        axes.set_xlim(*((min(low, 0.9), 1.01) if axes is grid[0] else (0, high)))
    grid[0].set_yticks(range(len(rows)), [data.classes[label].name for label in labels])
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def over_wavelength(bands: BandSet) -> bool:
    """Whether spectra of these bands are drawn as lines over wavelength."""
    return len(bands) > 3 and all(centre is not None for centre in bands.centres)


def _small_multiples(names: Sequence[str], share_y: bool) -> tuple[Figure, Sequence[Axes]]:
    """A figure with one small plot a class."""
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(names))
    down = math.ceil(len(names) / across)
    size = (max(4.0, WIDTH / _ACROSS * across), 0.9 + 1.6 * down)
    figure = Figure(figsize=size, dpi=144, layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=share_y, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(name, fontsize=8.5)
        axes.tick_params(labelsize=7.5)
        plain_frame(axes)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return figure, list(grid[: len(names)])


def _spectrum(
    axes: Axes, bands: BandSet, real: NDArray[np.float64], made: NDArray[np.float64], synthetic: bool
) -> None:
    """One class: mean of the real chips with their spread, mean of the distilled images."""
    known = [centre for centre in bands.centres if centre is not None]
    order = np.argsort(known) if len(known) == len(bands) else np.arange(len(bands))
    mean = finite_mean(real, (0,))
    spread = np.sqrt(finite_mean((real - mean) ** 2, (0,)))[order]
    real_mean, made_mean = mean[order], finite_mean(made, (0,))[order]
    name, colour = set_style(synthetic)
    if over_wavelength(bands):
        x = np.asarray(known)[order]
        axes.fill_between(
            x,
            real_mean - spread,
            real_mean + spread,
            color=_REAL_FILL,
            linewidth=0,
            label=f"{_ORIGINAL}, ± standard deviation",
        )
        axes.plot(x, real_mean, color=_REAL_LINE, linewidth=1.2, linestyle="--", label=f"{_ORIGINAL}, mean")
        axes.plot(x, made_mean, color=colour, linewidth=1.4, marker=".", label=f"{name}, mean")
        return
    x = np.arange(len(bands), dtype=np.float64)
    axes.errorbar(x - 0.1, real_mean, spread, fmt="_", color=_REAL_LINE, capsize=2, label=f"{_ORIGINAL}, mean ± std")
    axes.plot(x + 0.1, made_mean, color=colour, linestyle="none", marker="o", markersize=4, label=f"{name}, mean")
    axes.set_xticks(x, [bands.names[i] for i in order])
    axes.margins(x=0.2)


def _histogram(axes: Axes, real: NDArray[np.float32], made: NDArray[np.float32], synthetic: bool) -> None:
    """One class: both distributions of an index, each of unit area."""
    name, colour = set_style(synthetic)
    if len(real):
        axes.hist(
            real, _BINS, density=True, histtype="stepfilled", color=_REAL_FILL, edgecolor=_REAL_LINE, label=_ORIGINAL
        )
    if len(made):
        axes.hist(made, _BINS, density=True, histtype="step", color=colour, linewidth=1.4, label=name)
    # Room for the number above the curves.
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])


def _legend(figure: Figure, axes: Axes) -> None:
    """What is drawn, above all plots; matplotlib lists error bars last, but the originals belong first."""
    pairs = sorted(
        zip(*axes.get_legend_handles_labels(), strict=True), key=lambda pair: not pair[1].startswith(_ORIGINAL)
    )
    handles, names = [handle for handle, _ in pairs], [name for _, name in pairs]
    figure.legend(handles, names, loc="outside upper left", ncols=3, frameon=False, fontsize=8.5)


def _unit(bands: BandSet) -> str:
    return "reflectance" if bands.scale != 1 else "pixel value"
