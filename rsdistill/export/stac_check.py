"""Check STAC objects against core and extension schemas, without network."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rsdistill.errors import ArtifactError
from rsdistill.export.stac_schemas import extension_schemas

_LONGEST = 300


def check_stac(content: dict[str, Any], where: str) -> None:
    """Check a catalog, collection or item against core and extensions, without network.

    Args:
        content: The object as read from JSON.
        where: What to call it in messages.

    Raises:
        ArtifactError: Naming the object, and what a schema does not allow.
    """
    from pystac.errors import STACError, STACValidationError
    from pystac.validation import validate_dict

    unknown = sorted(set(content.get("stac_extensions", ())) - set(extension_schemas()))
    if unknown:
        raise ArtifactError(f"{where} declares extensions that cannot be checked here: {', '.join(unknown)}")
    try:
        validate_dict(content, validator=_validator())
    except STACValidationError as error:
        reasons = "; ".join(_reason(found) for found in error.source or [error])
        raise ArtifactError(f"{where} is not valid STAC: {reasons[:_LONGEST]}") from error
    except (STACError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{where} is not valid STAC: {error}") from error


def _reason(found: Any) -> str:
    place = "/".join(str(step) for step in getattr(found, "absolute_path", ()))
    message = str(getattr(found, "message", found))
    return f"{place}: {message[:_LONGEST]}" if place else message[:_LONGEST]


@lru_cache(maxsize=1)
def _validator() -> Any:
    """Validator that knows the extensions' schemas, so that it never asks the network."""
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    validator = JsonSchemaSTACValidator()
    validator.schema_cache.update(extension_schemas())
    return validator
