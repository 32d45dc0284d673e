"""What a method must keep to where a policy protects a class: nothing that rests on few of its chips goes out."""

from __future__ import annotations

from collections.abc import Collection

from rsdistill.captions.template import TemplateCaptioner
from rsdistill.distillers.base import Distiller, method_name
from rsdistill.errors import PolicyError

SHARED = "kanonymous"
"""The kind of prototypes that protected classes may be distilled with."""


def check_protection(method: Distiller, protected: Collection[str], captioner: str = TemplateCaptioner.name) -> None:
    """Refuse a method whose options would show single chips of a protected class.

    It must make images of its own, from k-anonymous prototypes, with hard labels, and texts may
    come from the template alone. A baseline that is judged beside it and never exported need not.

    Args:
        method: The method whose set goes out.
        protected: Keys of the protected classes.
        captioner: Registered name of what captions the chips.

    Raises:
        PolicyError: Naming the class and the option at fault.
    """
    if not protected:
        return
    named = f"class '{min(protected)}' is protected by the policy" + (
        f", as {len(protected) - 1} more" if len(protected) > 1 else ""
    )
    if method.real_pixels:
        raise PolicyError(
            f"{named}, but option distill.method '{method_name(method)}' hands out real chips; choose 'dpd' with "
            f"distill.options.prototypes.kind '{SHARED}', or exclude the class"
        )
    kind = getattr(getattr(method, "prototypes", None), "kind", None)
    if kind != SHARED:
        has = f"is '{kind}'" if kind else f"does not exist for method '{method_name(method)}'"
        raise PolicyError(
            f"{named}, but option distill.options.prototypes.kind {has}; it must be '{SHARED}', so that every "
            "prototype rests on several chips"
        )
    soft = getattr(method, "soft_labels", None)
    if getattr(soft, "top", soft):
        raise PolicyError(
            f"{named}, but option distill.options.soft_labels asks for soft labels, which tell how alike its chips "
            "are to others; leave it out"
        )
    if captioner != TemplateCaptioner.name:
        raise PolicyError(
            f"{named}, but its chips would be put into words by captioner '{captioner}' (option captions); texts of "
            "protected classes come from 'template'"
        )
