"""From measurements to the report: verdicts, figures of the whole set, and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.audit.calibration import DETECTORS, Calibration, values_of
from rsdistill.audit.findings import AuditReport, DetectorSummary, Reference, Share, TileFinding
from rsdistill.audit.matching import FloatArray, distances
from rsdistill.audit.measuring import Measured
from rsdistill.audit.neighbours import COPY_THRESHOLD, HeldOutNull
from rsdistill.audit.settings import AuditOptions
from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet

# Similarities nearer to each other are equal: what rounding alone can move.
_TIE = 1e-5
# Share of cosines between different real images below the limit of a feature copy.
_FEATURE_SHARE = 0.999
# Rarities above this are told as more than so rare: tails are not known that far out.
_RAREST = 6.0

# What is said of a flagged tile; the median of honest images stands in brackets.
_REASONS = {
    "pixels": "its pixels lie {value:.2f} from those of one training chip ({honest:.2f})",
    "copy_ratio": "it is {value:.2f} times as far from one training chip as from those around ({honest:.2f})",
    "blend": "its coarse layout stands out as that of one training chip by {value:.1f} ({honest:.1f})",
    "patches": "its quadrants stand out as crops of training chips by {value:.1f} ({honest:.1f})",
    "features": "its features have a cosine of {value:.2f} with those of one training chip ({honest:.2f})",
    "ssim": "its structural similarity to five training chips is {value:.2f} ({honest:.2f})",
}


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that was measured for one report.

    Attributes:
        measured: On the tiles.
        held_out: Largest similarity of each tile to held-out chips, in pixels and in features.
        honest: On the honest images.
        calibration: Nulls and limits set by these.
        features: What the features are.
        split_checked: Whether set and dataset were found to agree on the split.
    """

    measured: Measured
    held_out: tuple[FloatArray, FloatArray]
    honest: Measured
    calibration: Calibration
    features: str
    split_checked: bool


def compile_report(
    tiles: DistilledSet,
    data: SceneData,
    evidence: Evidence,
    options: AuditOptions,
    protected: frozenset[str],
    set_digest: str,
) -> AuditReport:
    """Bring evidence to a report.

    Args:
        tiles: The set, with the classes of ``data``.
        data: The dataset.
        evidence: What was measured.
        options: How it was audited.
        protected: Keys of the protected classes.
        set_digest: Digest of the set as it was given.
    """
    measured, honest, calibration = evidence.measured, evidence.honest, evidence.calibration
    keys = [data.classes[label].key for label in np.unique(tiles.label)]
    nulls = [
        Share.of(_held_out_null(ours, theirs, tiles.label, data))
        for ours, theirs in zip((measured.pixel_similarity, measured.feature), evidence.held_out, strict=True)
    ]
    limit = _cosine_limit(honest.cosines)
    findings = tuple(_findings(tiles, evidence, protected))
    return AuditReport(
        dataset=data.name,
        method=str(tiles.manifest.get("method", "unknown")),
        set_digest=set_digest,
        real=not tiles.is_synthetic,
        split_checked=evidence.split_checked,
        features=evidence.features,
        options=asdict(options),
        calibration=calibration.images,
        thresholds=asdict(calibration.thresholds),
        protected=tuple(sorted(protected & set(keys))),
        tiles=findings,
        detectors=tuple(_summaries(measured, findings, calibration)),
        held_out_null_pixels=nulls[0],
        held_out_null_features=nulls[1],
        copy_ratio_pixels=_shares(measured.copy_ratio < COPY_THRESHOLD, honest.copy_ratio < COPY_THRESHOLD),
        copy_ratio_features=_shares(measured.feature_ratio < COPY_THRESHOLD, honest.feature_ratio < COPY_THRESHOLD),
        feature_copies=_shares(measured.feature > limit, honest.feature > limit),
        feature_threshold=limit,
        nn_ssim=_shares(measured.ssim, honest.ssim),
        notes=tuple(_notes(tiles, evidence, options)),
    )


def _findings(tiles: DistilledSet, evidence: Evidence, protected: frozenset[str]) -> Iterator[TileFinding]:
    calibration = evidence.calibration
    values = values_of(evidence.measured)
    rarities = calibration.rarities(evidence.measured, tiles.label)
    names = list(DETECTORS)
    table = np.stack([rarities[name] for name in names])
    largest, leading = table.max(axis=0), table.argmax(axis=0)
    guarded = np.array([tiles.classes[label].key in protected for label in tiles.label])
    verdicts = calibration.thresholds.verdicts(largest, guarded)
    limits = calibration.thresholds.review_limits(guarded)
    for position, (verdict, slot) in enumerate(zip(verdicts, tiles.slots, strict=True)):
        own = {name: float(rarities[name][position]) for name in names}
        flagged = sorted((name for name in names if own[name] >= limits[position]), key=lambda name: -own[name])
        yield TileFinding(
            class_key=tiles.classes[tiles.label[position]].key,
            slot=int(slot),
            verdict=verdict,
            rarity=float(largest[position]),
            detector=names[leading[position]],
            reasons=tuple(
                _reason(name, float(values[name][position]), own[name], calibration.measured) for name in flagged
            ),
            values={name: float(values[name][position]) for name in names},
            rarities=own,
        )


def _reason(name: str, value: float, rarity: float, honest: Mapping[str, float]) -> str:
    words = _REASONS[name].format(value=value, honest=honest[name])
    if rarity > _RAREST:
        return f"{words}; fewer than one honest image in {10**_RAREST:,.0f} goes so far"
    # One digit: tails are not known better.
    return f"{words}; about one honest image in {float(f'{10**rarity:.0e}'):,.0f} goes so far"


def _summaries(
    measured: Measured, findings: Sequence[TileFinding], calibration: Calibration
) -> Iterator[DetectorSummary]:
    for name, values in values_of(measured).items():
        yield DetectorSummary(
            name=name,
            asks=DETECTORS[name],
            honest=calibration.measured[name],
            tiles=float(np.median(values)),
            flagged=sum(finding.rarities[name] >= calibration.thresholds.review for finding in findings),
        )


def _notes(tiles: DistilledSet, evidence: Evidence, options: AuditOptions) -> Iterator[str]:
    images = evidence.calibration.images
    if not evidence.split_checked:
        yield "The set does not say which split it was made from, so it could not be checked that this is the one."
    if options.block * images < 1.0:
        share = max(options.block, 1.0 / images)
        yield (
            f"Thresholds were set by {images} held-out chips; shares below {100 * share:.2g} % of honest images "
            "are drawn out from their tail."
        )
    if not tiles.is_synthetic:
        yield "The set says of itself that it holds real pixels: tiles are blocked by nature."


def _held_out_null(ours: FloatArray, theirs: FloatArray, labels: NDArray[np.int64], data: SceneData) -> HeldOutNull:
    """From the largest similarity of each tile to training and to held-out chips."""
    classes = len(data.classes)
    train = np.bincount(data.train.labels, minlength=classes)
    held_out = np.bincount(np.concatenate([data.val.labels, data.test.labels]), minlength=classes)
    chance = (train / np.maximum(train + held_out, 1))[labels]
    vote = np.where(np.abs(ours - theirs) < _TIE, chance, (ours > theirs).astype(np.float64))
    return HeldOutNull(vote, chance, distances(ours), distances(theirs))


def _cosine_limit(counts: NDArray[np.int64]) -> float:
    """Cosine below which 99.9 % of those between different real images lie."""
    edges = np.linspace(-1.0, 1.0, len(counts) + 1)[1:]
    return float(edges[np.searchsorted(np.cumsum(counts), _FEATURE_SHARE * counts.sum())])


def _shares(tiles: NDArray[Any], honest: NDArray[Any]) -> Reference:
    return Reference(float(np.mean(tiles)), float(np.mean(honest)))
