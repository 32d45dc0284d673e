"""What a class is called, by machines and by people, and the sector it belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassInfo:
    """One scene class.

    Attributes:
        key: The dataset's own spelling, such as ``"storagetanks"``; also the folder name.
        name: Readable name, such as ``"storage tanks"``.
        sector: Sector of the sensitive taxonomy, such as ``"energy"``; None if it has none.
    """

    key: str
    name: str
    sector: str | None = None


def readable(key: str) -> str:
    """Readable name of a class key: ``DenseResidential`` becomes ``dense residential``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key)
    return re.sub(r"[\s_-]+", " ", spaced).strip().lower()
