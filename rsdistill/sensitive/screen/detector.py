"""Detectors of excluded classes, trained on real chips of all classes.

A detector knows what excluded chips look like. It is kept in memory, written to no file and never exported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.audit.imagenet import installed
from rsdistill.audit.pixels import Normalisation, blocks, shrink, spread
from rsdistill.bands import NATURAL_COLOUR, BandSet
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import OptionError, PolicyError, SplitError
from rsdistill.evaluation.learning import train_student
from rsdistill.evaluation.recipe import Recipe
from rsdistill.sensitive.screen import imagenet
from rsdistill.sensitive.screen.options import ScreenOptions
from rsdistill.sensitive.screen.report import DetectorFigures
from rsdistill.training import TrainerOptions, derived_seed, resolve_device

FloatArray = NDArray[np.float64]
# From images (n, B, H, W) in sensor units, NaN where invalid, to logits (n, classes).
Classifier = Callable[[torch.Tensor], FloatArray]

_BATCH = 128
_STATISTICS_CHIPS = 512
_STREAM = 50
_LEAST_LIKELY = -50.0
# A factor of 4 sharper: more could not be learnt from some hundred chips, and would round probabilities to 1.
_LOG_TEMPERATURES = (-1.4, 3.0)
_LEAST_THRESHOLD = 0.05


@dataclass(frozen=True, eq=False)
class Detector:
    """Says how likely an image shows one of the excluded classes.

    Attributes:
        classify: The classifier of all classes.
        bands: Bands of the images.
        excluded: Which of its classes are excluded, bool (classes,).
        views: Symmetries of the square that each image is looked at in.
        figures: Threshold, temperature, and how well it does on validation chips.
    """

    classify: Classifier
    bands: BandSet
    excluded: NDArray[np.bool_]
    views: int
    figures: DetectorFigures

    def scores(self, images: NDArray[np.generic]) -> FloatArray:
        """Total probability of the excluded classes, (n,), for images (n, B, H, W) in sensor units."""
        logits = viewed_logits(self.classify, images, self.bands, self.views)
        return excluded_probability(logits / self.figures.temperature, self.excluded)


def train_detectors(
    data: SceneData,
    excluded: Collection[str],
    options: ScreenOptions | None = None,
    trainer: TrainerOptions | None = None,
) -> list[Detector]:
    """The detectors that the options ask for: a trained one, and CLIP where a model is named.

    Arguments and errors as of :func:`train_detector`, and:

    Raises:
        ModelError: If the CLIP model cannot be loaded.
    """
    from rsdistill.sensitive.screen.zeroshot import zero_shot_detector

    options = options or ScreenOptions()
    # One detector is enough to hold a tile back, so they share the false alarms.
    share = options.false_alarms / (1 if options.clip is None else 2)
    found = [] if options.clip is None else [zero_shot_detector(data, excluded, options.clip, share, options, trainer)]
    return [train_detector(data, excluded, options, trainer, share), *found]


def train_detector(
    data: SceneData,
    excluded: Collection[str],
    options: ScreenOptions | None = None,
    trainer: TrainerOptions | None = None,
    false_alarms: float | None = None,
) -> Detector:
    """Train a classifier of all classes on the train view and set its threshold on the validation view.

    Args:
        data: The dataset with the excluded classes, its chips as large as the tiles to be screened.
        excluded: Keys of the excluded classes.
        options: Which network, how trained.
        trainer: Device and the like.
        false_alarms: Share of allowed validation chips that may be held back; None for that of the options.

    Raises:
        PolicyError: If no class is excluded, or all are, or one of them has no train chip.
        UnknownNameError: If the dataset lacks one of them.
        SplitError: If there are no allowed validation chips.
        OptionError: If the network asked for is not installed or does not fit the bands.
    """
    options = options or ScreenOptions()
    mask = excluded_mask(data, excluded)
    # Of allowed chips alone, so that nothing but weights depends on excluded ones.
    allowed = np.flatnonzero(~mask[data.train.labels])
    reference = data.train.images(allowed[spread(len(allowed), _STATISTICS_CHIPS)])
    if _uses_imagenet(data, options):
        name = imagenet.NAME
        progress = trainer is None or trainer.progress
        classify: Classifier = imagenet.Probe(data, reference, resolve_device(trainer), options.seed, progress)
    else:
        name = f"student at {options.size} px"
        classify = _student(data, reference, options, trainer)
    return calibrated(name, classify, data, mask, options.views, false_alarms or options.false_alarms)


def excluded_mask(data: SceneData, excluded: Collection[str]) -> NDArray[np.bool_]:
    """Which classes are excluded, bool (classes,); see :func:`train_detector` for the errors."""
    mask = np.zeros(len(data.classes), bool)
    mask[[data.class_index(key) for key in excluded]] = True
    if not mask.any() or mask.all():
        number = "no" if not mask.any() else "every"
        raise PolicyError(
            f"the policy excludes {number} class of dataset '{data.name}'; there is nothing to screen for"
        )
    present = np.bincount(data.train.labels, minlength=len(mask)) > 0
    if not present[mask].all():
        count = int((mask & ~present).sum())
        raise PolicyError(
            f"{count} of the excluded classes of dataset '{data.name}' have no train chip, so no detector can learn "
            f"them; choose a split that leaves some"
        )
    return mask


def calibrated(
    name: str, classify: Classifier, data: SceneData, excluded: NDArray[np.bool_], views: int, false_alarms: float
) -> Detector:
    """A classifier with temperature and threshold set on validation chips.

    The threshold is the smallest score that holds back at most a share ``false_alarms`` of the allowed chips, but
    never below 5 %: where a detector tells real chips apart without fail, generated tiles are still stranger.

    Raises:
        SplitError: If there are no allowed validation chips.

    Source: Guo et al., On calibration of modern neural networks, 2017.
    """
    labels = data.val.labels
    allowed = ~excluded[labels]
    if not allowed.any():
        raise SplitError(
            f"dataset '{data.name}' has no validation chips of allowed classes to set the screen's threshold on; "
            f"set data.val above 0"
        )
    logits = viewed_logits(classify, data.val, data.bands, views)
    temperature = best_temperature(logits, labels)
    scores = excluded_probability(logits / temperature, excluded)
    ordered = np.sort(scores[allowed])[::-1]
    threshold = max(_LEAST_THRESHOLD, float(ordered[int(false_alarms * len(ordered))]))
    found = scores > threshold
    figures = DetectorFigures(
        name=name,
        threshold=threshold,
        temperature=temperature,
        detected=None if allowed.all() else float(found[~allowed].mean()),
        false_alarms=float(found[allowed].mean()),
        excluded=int((~allowed).sum()),
        allowed=int(allowed.sum()),
    )
    return Detector(classify, data.bands, excluded, views, figures)


def viewed_logits(
    classify: Classifier, images: NDArray[np.generic] | SceneView, bands: BandSet, views: int
) -> FloatArray:
    """Logits (n, classes) of images (n, B, H, W), mean over symmetries of the square, read in blocks."""
    found = []
    for part in blocks(len(images), _BATCH):
        pixels = images.images(part) if isinstance(images, SceneView) else images[part]
        chips = shrink(pixels, bands, None)
        turned = [torch.rot90(chips.flip(3) if view >= 4 else chips, view % 4, (2, 3)) for view in range(views)]
        found.append(np.mean([classify(version) for version in turned], axis=0))
    return np.concatenate(found)


def excluded_probability(logits: FloatArray, excluded: NDArray[np.bool_]) -> FloatArray:
    """Total probability of the excluded classes, (n,), of logits (n, classes)."""
    from scipy.special import softmax

    return np.asarray(softmax(logits, axis=1)[:, excluded].sum(axis=1), np.float64)


def best_temperature(logits: FloatArray, labels: NDArray[np.int64]) -> float:
    """What logits (n, classes) are best divided by: the smallest mean negative log-likelihood of the labels."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        likely = log_softmax(logits / np.exp(log_temperature), axis=1)
        # A class without train chips has no likelihood at all.
        return float(-np.maximum(likely[np.arange(len(labels)), labels], _LEAST_LIKELY).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))


def _student(
    data: SceneData, reference: NDArray[np.generic], options: ScreenOptions, trainer: TrainerOptions | None
) -> Classifier:
    recipe = Recipe(steps=options.steps, size=options.size)
    normalisation = Normalisation.of(shrink(reference, data.bands, options.size))
    chips = torch.cat([shrink(data.train.images(part), data.bands, options.size) for part in blocks(len(data.train))])
    seed = derived_seed(options.seed, _STREAM)
    student = train_student(
        chips, data.train.labels, None, recipe, len(data.classes), seed, normalisation, trainer, "detector"
    ).to(resolve_device(trainer))

    @torch.inference_mode()
    def classify(images: torch.Tensor) -> FloatArray:
        return np.asarray(student(images.to(resolve_device(trainer))).double().cpu().numpy())

    return classify


def _uses_imagenet(data: SceneData, options: ScreenOptions) -> bool:
    coloured = data.bands.has(NATURAL_COLOUR)
    if options.network == "imagenet" and not installed():
        raise OptionError(
            "option screen.network 'imagenet' needs packages that are missing; install rsdistill[offline] or "
            "choose 'student'"
        )
    if options.network == "imagenet" and not coloured:
        raise OptionError(
            f"option screen.network 'imagenet' needs red, green and blue, dataset '{data.name}' has bands "
            f"{', '.join(data.bands.names)}; choose 'student'"
        )
    return options.network == "imagenet" or (options.network == "auto" and coloured and installed())
