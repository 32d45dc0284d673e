"""Captions from measured attributes, where no model is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.bands import NATURAL_COLOUR, BandSet
from rsdistill.captions.base import CAPTIONERS, Captioner, Captions
from rsdistill.classes import TEMPLATE, class_prompts
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.imaging.spectral_indices import available, spectral_index
from rsdistill.training.trainer import TrainerOptions

Measures = dict[str, NDArray[np.float64]]


def measure(images: NDArray[Any], bands: BandSet) -> Measures:
    """Numbers that describe chips, each the same whichever way a chip is turned or flipped.

    Args:
        images: Chips of shape (n, B, H, W) in sensor units.
        bands: Their bands.

    Returns:
        Measures by name, each (n,): ``vegetation`` (mean NDVI, or excess green of colour chips), ``water`` (share of
        pixels with NDWI above 0; only where there is near infrared), ``blue`` (excess blue; only where there is not),
        ``warmth`` (red against blue), ``brightness``, ``contrast`` (spread over mean), ``fineness`` (gradient over
        spread) and ``linearity`` (coherence of the structure tensor; 1 where all edges run the same way).
    """
    colour = _natural(images, bands)
    red, green, blue = colour[:, 0], colour[:, 1], colour[:, 2]
    grey = colour.mean(axis=1)
    level, spread = _mean(grey), grey.std(axis=(1, 2))
    across, down = np.gradient(grey, axis=2), np.gradient(grey, axis=1)
    energy = across**2 + down**2
    known = available(bands)
    if "ndvi" in known and "ndwi" in known:
        ndvi, ndwi = (np.nan_to_num(spectral_index(name, images, bands)) for name in ("ndvi", "ndwi"))
        land = {"vegetation": _mean(ndvi), "water": _mean(ndwi > 0)}
    else:
        total = red + green + blue
        land = {
            "vegetation": _mean(_ratio(2 * green - red - blue, total)),
            "blue": _mean(_ratio(2 * blue - red - green, total)),
        }
    return {
        **land,
        "warmth": _mean(_ratio(red - blue, red + blue)),
        "brightness": level,
        "contrast": _ratio(spread, level),
        "fineness": _ratio(np.sqrt(_mean(energy)), spread),
        "linearity": _ratio(np.hypot(_mean(across**2 - down**2), _mean(2 * across * down)), _mean(energy)),
    }


def _natural(images: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Red, green and blue in physical values, (n, 3, H, W); 0 where nothing was measured."""
    chosen = np.asarray(images)[:, bands.composite(NATURAL_COLOUR)].astype(np.float64)
    missing = ~np.isfinite(chosen)
    if bands.nodata is not None:
        missing |= chosen == bands.nodata
    return np.where(missing, 0.0, np.maximum(chosen * bands.scale + bands.offset, 0.0))


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over the pixels of each chip."""
    return np.asarray(values.mean(axis=(1, 2)), np.float64)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


_BATCH = 64
# What the lowest and the highest chips are called; directions have no word, since training turns and flips chips.
_WORDS = {
    "vegetation": ("little green", "mostly green"),
    "blue": ("", "bluish"),
    "warmth": ("cool colours", "brown and red colours"),
    "brightness": ("dark", "bright"),
    "contrast": ("even brightness", "strong contrast"),
    "fineness": ("coarse texture", "fine texture"),
    "linearity": ("no main direction", "straight parallel lines"),
}
# Most chips hold no water, so shares of the chip decide, not quantiles.
_WATER = ((0.6, "mostly water"), (0.2, "much water"), (0.02, "some water"))


@CAPTIONERS.register(
    "attributes", summary="words for measured colour, water, texture and straight lines; needs no model"
)
class AttributesCaptioner(Captioner):
    """The template, followed by what sets a chip apart from others of the train view.

    Each measure of :func:`rsdistill.captions.attributes.measure` has a word for the chips below its
    lower and above its upper quantile over train, and none for those between: "A satellite image of
    forest, mostly green, dark, coarse texture".

    Args:
        share: Share of the train chips at either end of a measure that get a word.
        relative_to: Whether chips are compared with all train chips (``dataset``) or those of their own class
            (``class``), which tells the chips of one class apart.
        template: Text with ``{name}`` that the words are added to.
    """

    name = "attributes"

    def __init__(
        self,
        share: Annotated[float, Field(gt=0, le=0.5)] = 1 / 3,
        relative_to: Literal["dataset", "class"] = "dataset",
        template: str = TEMPLATE,
    ) -> None:
        self.share, self.relative_to, self.template = share, relative_to, template

    def _caption(
        self, data: SceneData, view: SceneView, split: str, folder: Path | None, trainer: TrainerOptions
    ) -> Captions:
        prompts = class_prompts(data.classes, self.template)
        train = _measure_view(data.train)
        found = train if view is data.train else _measure_view(view)
        groups = self._groups(data.train), self._groups(view)
        words = [self._words(name, train[name], found[name], *groups) for name in found]
        texts = tuple(
            (", ".join([prompts[label], *(said for said in chip if said)]),)
            for label, chip in zip(view.labels, zip(*words, strict=True), strict=True)
        )
        figures = {"distinct": len(set(texts))}
        return Captions(texts, split, self.name, prompt=self.template, figures=figures)

    def _groups(self, view: SceneView) -> NDArray[np.int64]:
        """Number of the group that each chip is compared with."""
        return view.labels if self.relative_to == "class" else np.zeros(len(view), np.int64)

    def _words(
        self,
        name: str,
        train: NDArray[np.float64],
        values: NDArray[np.float64],
        train_groups: NDArray[np.int64],
        groups: NDArray[np.int64],
    ) -> list[str]:
        """The word of each chip for one measure, empty where there is none."""
        if name == "water":
            return [next((word for least, word in _WATER if value >= least), "") for value in values]
        low_word, high_word = _WORDS[name]
        words = np.full(len(values), "", dtype=object)
        for group in np.unique(groups):
            low, high = np.quantile(train[train_groups == group], (self.share, 1 - self.share))
            here = groups == group
            words[here & (values < low)] = low_word
            words[here & (values > high)] = high_word
        return list(words)


def _measure_view(view: SceneView) -> Measures:
    """Measures of all chips of a view, read some at a time."""
    starts = range(0, len(view), _BATCH)
    parts = [
        measure(view.images(np.arange(start, min(start + _BATCH, len(view)))), view.source.bands) for start in starts
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
