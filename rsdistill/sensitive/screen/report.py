"""What the screen found, in plain types that name no excluded class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

NOTE = "A screen finds what its detectors know; it cannot prove that nothing of an excluded class is left."


@dataclass(frozen=True)
class DetectorFigures:
    """How well one detector tells excluded from allowed classes, on validation chips.

    Attributes:
        name: What the detector looks through.
        threshold: Probability of the excluded classes above which a tile is held back.
        temperature: What its logits are divided by, so that probabilities mean what they say.
        detected: Share of excluded validation chips above the threshold; None without any.
        false_alarms: Share of allowed validation chips above it.
        excluded: Number of excluded validation chips.
        allowed: Number of allowed ones.
    """

    name: str
    threshold: float
    temperature: float
    detected: float | None
    false_alarms: float
    excluded: int
    allowed: int


@dataclass(frozen=True)
class ScreenReport:
    """What the screen did to one distilled set.

    Attributes:
        detectors: The detectors that were asked; one of them is enough to hold a tile back.
        tiles: Number of tiles of the set.
        rounds: Rounds of further candidates that were needed.
        drawn: Number of tiles looked at, further candidates included.
        quarantined: Number of tiles held back.
        by_class: The same by key of the class that they were drawn for; classes without any are left out.
        scores: Largest score of each tile that was kept, relative to the threshold: below 1.
    """

    detectors: tuple[DetectorFigures, ...]
    tiles: int
    rounds: int
    drawn: int
    quarantined: int
    by_class: Mapping[str, int]
    scores: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """What the manifest of the set says."""
        values = self.to_dict()
        del values["scores"]
        return {**values, "note": NOTE}

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; :meth:`from_dict` reads them back."""
        detectors = [asdict(figures) for figures in self.detectors]
        return {**asdict(self), "detectors": detectors, "by_class": dict(self.by_class), "scores": list(self.scores)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScreenReport:
        """Rebuild a report from :meth:`to_dict`."""
        detectors = tuple(DetectorFigures(**figures) for figures in values["detectors"])
        return cls(**{**values, "detectors": detectors, "scores": tuple(values["scores"])})
