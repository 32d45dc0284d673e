"""Screening of a set: detectors of excluded classes hold tiles back, others are drawn until none is left.

A detector is trained on real chips of all classes, so it knows what excluded chips look like. It is kept in memory,
written to no file and never exported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.errors import BandError, OptionError, PolicyError
from rsdistill.evaluation.student_training import Recipe, train_student
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import blocks, shrink, spread
from rsdistill.models.networks import uses_imagenet
from rsdistill.screen.base import (
    Classifier,
    Detector,
    FloatArray,
    ScreenOptions,
    ScreenReport,
    calibrated,
    excluded_mask,
)
from rsdistill.screen.pretrained_detectors import NAME, Probe, zero_shot_detector
from rsdistill.training.trainer import TrainerOptions, derived_seed, resolve_device

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
    if uses_imagenet(options.network, "screen.network", "student", data.bands, data.name):
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


Redraw = Callable[[NDArray[np.int64], int], DistilledSet]
"""Draws further candidates: positions (n,) in the set and the number of the round, from 1, to a set of n tiles."""


def screen(
    tiles: DistilledSet,
    detectors: Sequence[Detector],
    redraw: Redraw,
    attempts: int = 5,
    quarantine: str | Path | None = None,
) -> tuple[DistilledSet, ScreenReport]:
    """Replace every tile that a detector takes for an excluded class.

    Args:
        tiles: The distilled set.
        detectors: At least one; one of them is enough to hold a tile back.
        redraw: Draws further candidates for some tiles, of the same classes, such as a method's ``redraw``.
        attempts: Rounds of further candidates before giving up.
        quarantine: Where the tiles held back are kept, a ``.nc`` or ``.zarr`` with their scores in the manifest;
            written where there are any, also if the set is given up. None keeps none.

    Returns:
        A set with as many tiles of each class as before, whose manifest tells of the screen, and the report.

    Raises:
        PolicyError: If tiles are still held back after so many rounds.
        OptionError: If there is no detector, or candidates are of other number or classes than asked for.
        BandError: If the bands are not those of the detectors.
        ArtifactError: If the quarantine file exists, or has another ending.
    """
    if not detectors or attempts < 1:
        raise OptionError(f"a screen needs detectors and at least one attempt; got {len(detectors)} and {attempts}")
    for detector in detectors:
        if detector.bands.names != tiles.bands.names:
            raise BandError(
                f"the distilled set has bands {', '.join(tiles.bands.names)}, the screen's detector "
                f"{', '.join(detector.bands.names)}; train it on the bands of the set"
            )
    kept, held = tiles, _Held(tiles, detectors)
    scores = relative_scores(detectors, tiles.image)
    drawn, rounds = len(tiles), 0
    while (suspicious := np.flatnonzero(scores > 1.0)).size and rounds <= attempts:
        held.add(kept.subset(suspicious), scores[suspicious], rounds)
        if rounds == attempts:
            held.save(quarantine)
            raise PolicyError(_given_up(kept, suspicious, attempts))
        rounds += 1
        fresh = redraw(suspicious, rounds)
        kept = _replaced(kept, suspicious, fresh)
        scores[suspicious] = relative_scores(detectors, fresh.image)
        drawn += len(fresh)
    held.save(quarantine)
    report = ScreenReport(
        detectors=tuple(detector.figures for detector in detectors),
        tiles=len(tiles),
        rounds=rounds,
        drawn=drawn,
        quarantined=held.count,
        by_class=held.by_class(),
        scores=tuple(scores.tolist()),
    )
    return replace(kept, manifest={**kept.manifest, "screen": report.summary()}), report


def relative_scores(detectors: Sequence[Detector], images: NDArray[np.generic]) -> FloatArray:
    """Largest score of each image (n,) over the detectors, relative to their thresholds: above 1 is held back."""
    return np.asarray(np.max([d.scores(images) / d.figures.threshold for d in detectors], axis=0))


class _Held:
    """The tiles held back, round by round."""

    def __init__(self, tiles: DistilledSet, detectors: Sequence[Detector]) -> None:
        self._tiles, self._detectors = tiles, detectors
        self._rounds: list[DistilledSet] = []
        self._notes: list[dict[str, Any]] = []

    @property
    def count(self) -> int:
        return len(self._notes)

    def add(self, tiles: DistilledSet, scores: FloatArray, number: int) -> None:
        self._rounds.append(tiles)
        self._notes += [{"round": number, "score": float(score)} for score in scores]

    def by_class(self) -> dict[str, int]:
        return _counts(self._tiles, np.concatenate([np.empty(0, np.int64), *(part.label for part in self._rounds)]))

    def save(self, path: str | Path | None) -> None:
        if path is None or not self._rounds:
            return
        note = "held back by the screen as too like an excluded class; not for release"
        manifest = {**self._tiles.manifest, "quarantine": {"note": note, "tiles": self._notes}}
        joined = replace(
            self._tiles,
            image=np.concatenate([part.image for part in self._rounds]),
            label=np.concatenate([part.label for part in self._rounds]),
            caption=[text for part in self._rounds for text in part.caption],
            score=np.concatenate([part.score for part in self._rounds]),
            soft_label=None,
            verdict=None,
            manifest=manifest,
        )
        joined.save(path)


def _replaced(tiles: DistilledSet, positions: NDArray[np.int64], fresh: DistilledSet) -> DistilledSet:
    """The set with other tiles at some positions; images, texts, scores and soft labels change together."""
    if len(fresh) != len(positions) or fresh.image.shape[1:] != tiles.image.shape[1:]:
        raise OptionError(
            f"{len(positions)} candidates of shape {tiles.image.shape[1:]} were asked for, but {len(fresh)} of shape "
            f"{fresh.image.shape[1:]} came back; mend the method's redraw"
        )
    if not np.array_equal(fresh.label, tiles.label[positions]):
        raise OptionError("further candidates are of other classes than asked for; mend the method's redraw")
    if (fresh.soft_label is None) != (tiles.soft_label is None):
        raise OptionError("further candidates and the set differ in having soft labels; mend the method's redraw")
    image, score = tiles.image.copy(), tiles.score.copy()
    caption, soft = list(tiles.caption), tiles.soft_label
    image[positions], score[positions] = fresh.image, fresh.score
    for position, text in zip(positions.tolist(), fresh.caption, strict=True):
        caption[position] = text
    if soft is not None:
        soft = soft.copy()
        soft[positions] = fresh.soft_label
    # Verdicts of an audit are of tiles that may be gone.
    return replace(tiles, image=image, score=score, caption=caption, soft_label=soft, verdict=None)


def _counts(tiles: DistilledSet, labels: NDArray[np.int64]) -> dict[str, int]:
    """How many of the labels each class has, by key; classes without any are left out."""
    counts = np.bincount(labels, minlength=len(tiles.classes))
    return {info.key: int(n) for info, n in zip(tiles.classes, counts, strict=True) if n}


def _given_up(tiles: DistilledSet, suspicious: NDArray[np.int64], attempts: int) -> str:
    short = [f"{key} ({n})" for key, n in _counts(tiles, tiles.label[suspicious]).items()]
    return (
        f"the screen still takes {len(suspicious)} of {len(tiles)} tiles for an excluded class after {attempts} rounds "
        f"of further candidates, in: {', '.join(short)}; the set would be short of images, so none is made. Look at "
        f"the quarantine, then raise screen.attempts, exclude these classes too, or allow more screen.false_alarms"
    )
