"""What a class is called, by machines, by people and in prompts, and the sector it belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rsdistill.errors import OptionError

TEMPLATE = "A satellite image of {name}"


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


def class_prompts(classes: Sequence[ClassInfo], template: str = TEMPLATE) -> list[str]:
    """One prompt a class.

    Args:
        classes: The classes.
        template: Text with ``{name}`` where the readable name goes.

    Raises:
        OptionError: If the template does not name the class.
    """
    try:
        prompts = [template.format(name=info.name) for info in classes]
    except (KeyError, IndexError, ValueError) as error:
        raise OptionError(f"prompt template '{template}' is not valid ({error}); write {{name}} once") from error
    if len(set(prompts)) < len(prompts):
        raise OptionError(f"prompt template '{template}' gives two classes the same prompt; write {{name}} in it")
    return prompts
