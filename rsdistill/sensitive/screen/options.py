"""Options of the screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class ScreenOptions:
    """How generated tiles are screened for excluded classes.

    Attributes:
        network: What the detector looks through: ``imagenet`` (features of a network trained on ImageNet, for
            which rsdistill[offline] is needed), ``student`` (a small network trained from scratch, for any
            bands), or ``auto`` for the first where it is installed and the dataset has natural colour.
        false_alarms: Share of allowed validation chips that may be held back, over all detectors.
        attempts: Rounds of further candidates before the run gives up.
        views: Symmetries of the square that each tile is looked at in: 1, 2, 4 or 8.
        steps: Optimiser steps of the ``student``.
        size: Side in pixels that the ``student`` sees.
        clip: Folder or hub id of a CLIP model that is asked too, by the names of the classes; None asks none.
        seed: Seed of the detector.
    """

    network: Literal["auto", "imagenet", "student"] = "auto"
    false_alarms: Annotated[float, Field(gt=0, lt=0.5)] = 0.04
    attempts: Annotated[int, Field(ge=1)] = 5
    views: Literal[1, 2, 4, 8] = 4
    steps: Annotated[int, Field(ge=1)] = 600
    size: Annotated[int, Field(ge=8)] = 64
    clip: str | None = None
    seed: int = 0
