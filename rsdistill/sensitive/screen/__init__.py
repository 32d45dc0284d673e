"""The screen for what comes out: generated tiles that look like an excluded class are held back and replaced."""

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
