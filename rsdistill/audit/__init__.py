"""Audits of a distilled set: does it leak the chips that it was made from?

Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsdistill.audit.auditing import Auditor, apply, audit
    from rsdistill.audit.findings import AuditReport, TileFinding
    from rsdistill.audit.neighbours import CopyRatio, HeldOutNull, Leakage, copy_ratio, held_out_null, leakage
    from rsdistill.audit.settings import AuditOptions

_HOMES = {
    "AuditOptions": "settings",
    "AuditReport": "findings",
    "Auditor": "auditing",
    "CopyRatio": "neighbours",
    "HeldOutNull": "neighbours",
    "Leakage": "neighbours",
    "TileFinding": "findings",
    "apply": "auditing",
    "audit": "auditing",
    "copy_ratio": "neighbours",
    "held_out_null": "neighbours",
    "leakage": "neighbours",
}

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
