"""The report of a run: one HTML file, and the figures in it for use in notebooks.

Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsdistill.report.audit_page import suspicious_pairs, write_audit
    from rsdistill.report.curves import training_curves
    from rsdistill.report.figures import accuracy_against_leakage
    from rsdistill.report.html import write_report
    from rsdistill.report.sheets import contact_sheet, nearest_sheet, shared_limits
    from rsdistill.report.spectra import class_spectra, index_histograms, spectral_agreement

_HOMES = {
    "accuracy_against_leakage": "figures",
    "class_spectra": "spectra",
    "contact_sheet": "sheets",
    "index_histograms": "spectra",
    "nearest_sheet": "sheets",
    "shared_limits": "sheets",
    "spectral_agreement": "spectra",
    "suspicious_pairs": "audit_page",
    "training_curves": "curves",
    "write_audit": "audit_page",
    "write_report": "html",
}

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


def __getattr__(name: str) -> Any:
    """Import a public name from its module, once.

    Raises:
        AttributeError: If the name is not public.
    """
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, whether imported yet or not."""
    return sorted(__all__)
