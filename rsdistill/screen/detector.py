"""Detectors of excluded classes, trained on real chips of all classes.

A detector knows what excluded chips look like. It is kept in memory, written to no file and never exported.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.bands import NATURAL_COLOUR
from rsdistill.datasets.base import SceneData
from rsdistill.errors import OptionError
from rsdistill.evaluation.student_training import Recipe, train_student
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import blocks, shrink, spread
from rsdistill.models.imagenet import installed
from rsdistill.screen.base import Classifier, Detector, ScreenOptions, calibrated, excluded_mask
from rsdistill.screen.pretrained_detectors import NAME, Probe, zero_shot_detector
from rsdistill.training.trainer import TrainerOptions, derived_seed, resolve_device

FloatArray = NDArray[np.float64]

_STATISTICS_CHIPS = 512
_STREAM = 50


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
        name = NAME
        progress = trainer is None or trainer.progress
        classify: Classifier = Probe(data, reference, resolve_device(trainer), options.seed, progress)
    else:
        name = f"student at {options.size} px"
        classify = _student(data, reference, options, trainer)
    return calibrated(name, classify, data, mask, options.views, false_alarms or options.false_alarms)


def _student(
    data: SceneData, reference: NDArray[np.generic], options: ScreenOptions, trainer: TrainerOptions | None
) -> Classifier:
    recipe = Recipe(steps=options.steps, size=options.size)
    normalisation = StandardNormalisation.of(shrink(reference, data.bands, options.size))
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
