"""The report of a run: one HTML file, and the figures in it for use in notebooks.

Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsdistill.lazy import lazy_names

if TYPE_CHECKING:
    from rsdistill.report.audit_page import suspicious_pairs, write_audit
    from rsdistill.report.curves import training_curves
    from rsdistill.report.figures import accuracy_against_leakage
    from rsdistill.report.html import write_report
    from rsdistill.report.sheets import contact_sheet, nearest_sheet, shared_limits
    from rsdistill.report.spectra import class_spectra, index_histograms, spectral_agreement


__all__ = [
    "accuracy_against_leakage",
    "class_spectra",
    "contact_sheet",
    "index_histograms",
    "nearest_sheet",
    "shared_limits",
    "spectral_agreement",
    "suspicious_pairs",
    "training_curves",
    "write_audit",
    "write_report",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "audit_page": ("suspicious_pairs", "write_audit"),
        "curves": ("training_curves",),
        "figures": ("accuracy_against_leakage",),
        "html": ("write_report",),
        "sheets": ("contact_sheet", "nearest_sheet", "shared_limits"),
        "spectra": ("class_spectra", "index_histograms", "spectral_agreement"),
    },
)
