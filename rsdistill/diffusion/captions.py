"""Prompts: the texts that classes are generated from."""

from __future__ import annotations

from collections.abc import Sequence

from rsdistill.classes import ClassInfo
from rsdistill.errors import OptionError

TEMPLATE = "A satellite image of {name}"


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
