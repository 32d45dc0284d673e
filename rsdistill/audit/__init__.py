"""Audits of a distilled set: does it leak the chips that it was made from?

Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsdistill.lazy import lazy_names

if TYPE_CHECKING:
    from rsdistill.audit.auditing import Auditor, apply, audit
    from rsdistill.audit.findings import AuditReport, TileFinding
    from rsdistill.audit.neighbours import CopyRatio, HeldOutNull, Leakage, copy_ratio, held_out_null, leakage
    from rsdistill.audit.settings import AuditOptions


__all__ = [
    "AuditOptions",
    "AuditReport",
    "Auditor",
    "CopyRatio",
    "HeldOutNull",
    "Leakage",
    "TileFinding",
    "apply",
    "audit",
    "copy_ratio",
    "held_out_null",
    "leakage",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "auditing": ("Auditor", "apply", "audit"),
        "findings": ("AuditReport", "TileFinding"),
        "neighbours": ("CopyRatio", "HeldOutNull", "Leakage", "copy_ratio", "held_out_null", "leakage"),
        "settings": ("AuditOptions",),
    },
)
