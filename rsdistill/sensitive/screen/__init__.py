"""The screen for what comes out: generated tiles that look like an excluded class are held back and replaced.

Names are imported when first used, so that options and reports load no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsdistill.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "detector": ("Detector", "train_detector", "train_detectors"),
        "options": ("ScreenOptions",),
        "report": ("DetectorFigures", "ScreenReport"),
        "screening": ("Redraw", "screen"),
        "zeroshot": ("zero_shot_detector",),
    },
)
