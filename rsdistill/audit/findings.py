"""What an audit found, as typed values that survive JSON. No chip id, file name or position of a chip is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rsdistill.audit.neighbours import HeldOutNull
from rsdistill.errors import ArtifactError
from rsdistill.options import plain

if TYPE_CHECKING:
    from rsdistill.audit.membership import MembershipResult

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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from plain types."""
        return cls(**{**values, "reasons": tuple(values["reasons"])})


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

    @classmethod
    def of(cls, null: HeldOutNull) -> Self:
        """The rate of a held-out null."""
        return cls(null.rate, *null.interval)


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
            for name in ("held_out_null_pixels", "held_out_null_features"):
                parts[name] = Share(**parts[name])
            for name in ("copy_ratio_pixels", "copy_ratio_features", "feature_copies", "nn_ssim"):
                parts[name] = Reference(**parts[name])
            parts["tiles"] = tuple(TileFinding.from_dict(tile) for tile in parts["tiles"])
            parts["detectors"] = tuple(DetectorSummary(**detector) for detector in parts["detectors"])
            parts["protected"], parts["notes"] = tuple(parts["protected"]), tuple(parts["notes"])
            return cls(**parts)
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"the audit report is damaged ({error!r}); audit the set again") from error
