"""The screen for what comes out: generated tiles that look like an excluded class are held back and replaced.

Names are imported when first used, so that options and reports load no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsdistill.sensitive.screen.detector import Detector, train_detector, train_detectors
    from rsdistill.sensitive.screen.options import ScreenOptions
    from rsdistill.sensitive.screen.report import DetectorFigures, ScreenReport
    from rsdistill.sensitive.screen.screening import Redraw, screen
    from rsdistill.sensitive.screen.zeroshot import zero_shot_detector

__all__ = [
    "Detector",
    "DetectorFigures",
    "Redraw",
    "ScreenOptions",
    "ScreenReport",
    "screen",
    "train_detector",
    "train_detectors",
    "zero_shot_detector",
]

_HOMES = {
    "detector": ("Detector", "train_detector", "train_detectors"),
    "options": ("ScreenOptions",),
    "report": ("DetectorFigures", "ScreenReport"),
    "screening": ("Redraw", "screen"),
    "zeroshot": ("zero_shot_detector",),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module, once.

    Raises:
        AttributeError: If the name is not public.
    """
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, whether imported yet or not."""
    return sorted(__all__)
