"""Evaluation of a distilled set: students trained on it, beside random real chips and the full data.

Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsdistill.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
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
        "metrics": (
            "Scores",
            "alpha_score",
            "ars",
            "average_accuracy",
            "cohen_kappa",
            "confusion_matrix",
            "coverage",
            "hlr",
            "ior",
            "lrs",
            "overall_accuracy",
        ),
        "protocol": ("evaluate",),
        "recipe": ("Recipe",),
        "results": ("EvaluationReport", "Row"),
        "spectral": ("ergas", "index_error", "psnr_per_band", "signal_range", "spectral_angle", "ssim_per_band"),
        "students": ("STUDENTS",),
    },
)
