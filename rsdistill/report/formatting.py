"""Numbers and plain values as text for a person."""

from __future__ import annotations

import json
from typing import Any

from rsdistill.options import plain

_THOUSAND = 1000


def percent(value: float | None, std: float | None = None, digits: int = 1) -> str:
    """A fraction in percent without its sign, with its standard deviation where there is one."""
    if value is None:
        return "–"
    return f"{100 * value:.{digits}f}" + ("" if std is None else f" ± {100 * std:.{digits}f}")


def storage(count: float) -> str:
    """A number of bytes in decimal units, such as ``1.23 MB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < _THOUSAND or unit == "TB":
            break
        count /= _THOUSAND
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds as ``4.2 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def figure_text(value: Any) -> str:
    """One figure of a stage: numbers to four digits, whole numbers with their thousands apart."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def yaml_text(value: Any) -> str:
    """Options or a manifest as YAML; dataclasses become mappings, paths their text."""
    import yaml

    simple = json.loads(json.dumps(plain(value), default=str))
    return str(yaml.safe_dump(simple, sort_keys=False, allow_unicode=True, width=110))
