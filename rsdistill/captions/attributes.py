"""Captions from measured attributes, where no model is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.captions.base import CAPTIONERS, Captioner, Captions
from rsdistill.captions.measures import Measures, measure
from rsdistill.captions.template import TEMPLATE, class_prompts
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.training import TrainerOptions

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

    Each measure of :func:`rsdistill.captions.measures.measure` has a word for the chips below its
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
