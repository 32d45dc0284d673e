"""Options of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from rsdistill.errors import OptionError

FeatureKind = Literal["auto", "imagenet", "descriptors"]


@dataclass(frozen=True)
class AuditOptions:
    """How tiles are audited.

    Attributes:
        review: Share of honest images that may be flagged at all, over all detectors together.
        block: Share of honest images that may be blocked.
        protected: Protected classes may be flagged so many times as often.
        calibration: Held-out chips that the thresholds are set by, at most; spread over the classes.
        features: ``imagenet``, ``descriptors``, or ``auto`` for the first where it is at hand.
        membership: Shadow students of the membership attack, which trains as many and more; None leaves it out.

    Raises:
        OptionError: If ``block`` is above ``review``, or a value is out of range.
    """

    review: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    block: Annotated[float, Field(gt=0, le=0.1)] = 0.001
    protected: Annotated[float, Field(ge=1, le=20)] = 5.0
    calibration: Annotated[int, Field(ge=20)] = 600
    features: FeatureKind = "auto"
    membership: Annotated[int, Field(ge=4)] | None = None

    def __post_init__(self) -> None:
        """Refuse shares in the wrong order; ranges are checked where options are parsed."""
        if not 0.0 < self.block <= self.review < 1.0:
            raise OptionError(
                f"option audit.block is {self.block} and audit.review {self.review}; both are shares of honest images, "
                "and the one blocked lies within the one flagged"
            )
