"""Evaluation of a distilled set: students trained on it, beside random real chips and the full data.

Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsdistill.evaluation.agreement import (
        ClassAgreement,
        chip_spectra,
        class_agreement,
        index_distance,
        mean_spectrum,
        spectrum_correlation,
        spectrum_distance,
    )
    from rsdistill.evaluation.learning import Student, evaluate_student, predict, train_student
    from rsdistill.evaluation.metrics import (
        Scores,
        alpha_score,
        ars,
        average_accuracy,
        cohen_kappa,
        confusion_matrix,
        coverage,
        hlr,
        ior,
        lrs,
        overall_accuracy,
    )
    from rsdistill.evaluation.protocol import evaluate
    from rsdistill.evaluation.recipe import Recipe
    from rsdistill.evaluation.results import EvaluationReport, Row
    from rsdistill.evaluation.spectral import (
        ergas,
        index_error,
        psnr_per_band,
        signal_range,
        spectral_angle,
        ssim_per_band,
    )
    from rsdistill.evaluation.students import STUDENTS

__all__ = [
    "STUDENTS",
    "ClassAgreement",
    "EvaluationReport",
    "Recipe",
    "Row",
    "Scores",
    "Student",
    "alpha_score",
    "ars",
    "average_accuracy",
    "chip_spectra",
    "class_agreement",
    "cohen_kappa",
    "confusion_matrix",
    "coverage",
    "ergas",
    "evaluate",
    "evaluate_student",
    "hlr",
    "index_distance",
    "index_error",
    "ior",
    "lrs",
    "mean_spectrum",
    "overall_accuracy",
    "predict",
    "psnr_per_band",
    "signal_range",
    "spectral_angle",
    "spectrum_correlation",
    "spectrum_distance",
    "ssim_per_band",
    "train_student",
]

_HOMES = {
    "agreement": (
        "ClassAgreement",
        "chip_spectra",
        "class_agreement",
        "index_distance",
        "mean_spectrum",
        "spectrum_correlation",
        "spectrum_distance",
    ),
    "learning": ("Student", "evaluate_student", "predict", "train_student"),
    "protocol": ("evaluate",),
    "recipe": ("Recipe",),
    "results": ("EvaluationReport", "Row"),
    "spectral": ("ergas", "index_error", "psnr_per_band", "signal_range", "spectral_angle", "ssim_per_band"),
    "students": ("STUDENTS",),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module, once.

    Raises:
        AttributeError: If the name is not public.
    """
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    home = next((module for module, names in _HOMES.items() if name in names), "metrics")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, whether imported yet or not."""
    return sorted(__all__)
