"""From measurements to the report: verdicts, figures of the whole set, and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from rsdistill.audit.calibration import DETECTORS, AuditOptions, Calibration, values_of
from rsdistill.audit.similarity_tests import FloatArray, Measurements, distances
from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.errors import ArtifactError
from rsdistill.evaluation.leakage import COPY_THRESHOLD, HeldOutNull
from rsdistill.utils.options import plain

if TYPE_CHECKING:
    from rsdistill.audit.attack import MembershipResult

FORMAT = "rsdistill.audit/1"
VERDICTS = ("pass", "review", "block")
CAVEAT = (
    "Audits can show leakage but cannot prove its absence: only differential privacy gives a guarantee, "
    "and a pass is none."
)


@dataclass(frozen=True)
class TileFinding:
    """What was found about one tile.

    Attributes:
        class_key: Key of its class.
        slot: Its running number within the class.
        verdict: ``pass``, ``review`` or ``block``.
        rarity: Largest rarity over the detectors: -log10 of the share of honest images that go as far.
        detector: The detector that it comes from.
        reasons: Why it was flagged, a sentence a detector; empty for ``pass``.
        values: What each detector measured.
        rarities: Rarity by detector.
    """

    class_key: str
    slot: int
    verdict: str
    rarity: float
    detector: str
    reasons: tuple[str, ...]
    values: Mapping[str, float]
    rarities: Mapping[str, float]


@dataclass(frozen=True)
class Share:
    """A share with its 95 % Clopper-Pearson interval.

    Attributes:
        rate: The share.
        low: Lower limit.
        high: Upper limit.
    """

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Reference:
    """A figure of the tiles beside the same figure of honest images, without which it means nothing.

    Attributes:
        tiles: Of the tiles.
        honest: Of the held-out chips.
    """

    tiles: float
    honest: float


@dataclass(frozen=True)
class DetectorSummary:
    """One detector on all tiles.

    Attributes:
        name: Its name.
        asks: What it measures.
        honest: Median on honest images.
        tiles: Median on the tiles.
        flagged: Tiles that it alone would have flagged.
    """

    name: str
    asks: str
    honest: float
    tiles: float
    flagged: int


@dataclass(frozen=True)
class AuditReport:
    """The whole audit of a set.

    Attributes:
        dataset: Name of the dataset audited against.
        method: Method that made the set.
        set_digest: Digest of the images, labels and texts that were audited.
        real: Whether the set says of itself that it holds real pixels.
        split_checked: Whether set and dataset were found to agree on the split; False where the set does not say.
        features: What the features are.
        options: Options of the audit.
        calibration: Honest images that the thresholds were set by.
        thresholds: Rarities from which a tile is flagged, by name.
        protected: Keys of the classes held to tightened thresholds.
        tiles: A finding a tile, in the order of the set.
        detectors: A summary each.
        held_out_null_pixels: How often the nearest chip in pixels is a training chip; 0.5 without a leak.
        held_out_null_features: The same in features.
        copy_ratio_pixels: Share with a copy ratio under 1/3, in pixels.
        copy_ratio_features: The same in features.
        feature_copies: Share whose largest cosine exceeds the 99.9th percentile between different real images.
        feature_threshold: That percentile.
        nn_ssim: Mean of the structural similarity to the 5 most similar training chips of the class.
        membership: What the membership attack found, plain types; None where it was not run.
        notes: What a reader must know about this audit, a sentence each.
    """

    dataset: str
    method: str
    set_digest: str
    real: bool
    split_checked: bool
    features: str
    options: Mapping[str, Any]
    calibration: int
    thresholds: Mapping[str, float]
    protected: tuple[str, ...]
    tiles: tuple[TileFinding, ...]
    detectors: tuple[DetectorSummary, ...]
    held_out_null_pixels: Share
    held_out_null_features: Share
    copy_ratio_pixels: Reference
    copy_ratio_features: Reference
    feature_copies: Reference
    feature_threshold: float
    nn_ssim: Reference
    membership: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    caveat: str = CAVEAT

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Verdict of each tile, in the order of the set."""
        return tuple(tile.verdict for tile in self.tiles)

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by verdict."""
        found = Counter(self.verdicts)
        return {verdict: found[verdict] for verdict in VERDICTS}

    def most_suspicious(self, most: int) -> list[int]:
        """Positions of the tiles with the largest rarities, the largest first."""
        order = np.argsort([-tile.rarity for tile in self.tiles], kind="stable")
        return [int(position) for position in order[:most]]

    def with_membership(self, found: MembershipResult) -> Self:
        """The report with the figures of a membership attack."""
        return replace(self, membership=found.figures())

    def summary(self) -> dict[str, Any]:
        """What the manifest of the audited set says: figures of the whole set, without those of each tile."""
        whole = self.to_dict()
        left_out = ("format", "tiles", "detectors", "set_digest", "dataset", "method", "real")
        return {"verdicts": self.counts, **{name: value for name, value in whole.items() if name not in left_out}}

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; :meth:`from_dict` reads them back."""
        return {"format": FORMAT, **plain(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a report from :meth:`to_dict`.

        Raises:
            ArtifactError: If the values are no audit report.
        """
        if values.get("format") != FORMAT:
            raise ArtifactError(f"this is no audit report of format {FORMAT}; audit the set again")
        parts = {name: value for name, value in values.items() if name != "format"}
        try:
            return TypeAdapter(cls).validate_python(parts)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtifactError(
                f"the audit report is damaged ({where}: {first['msg']}); audit the set again"
            ) from error


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

    measured: Measurements
    held_out: tuple[FloatArray, FloatArray]
    honest: Measurements
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
        _held_out_null(ours, theirs, tiles.label, data)
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
        held_out_null_pixels=Share(nulls[0].rate, *nulls[0].interval),
        held_out_null_features=Share(nulls[1].rate, *nulls[1].interval),
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
    measured: Measurements, findings: Sequence[TileFinding], calibration: Calibration
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
