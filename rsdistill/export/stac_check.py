"""Check STAC objects against core and extension schemas, without network."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rsdistill.errors import ArtifactError
from rsdistill.export.stac_schemas import extension_schemas

_LONGEST = 300
_TYPES = {"Catalog": "CATALOG", "Collection": "COLLECTION", "Feature": "ITEM"}


def check_stac(content: dict[str, Any], where: str) -> None:
    """Check a catalog, collection or item against core and extensions, without network.

    It judges as pystac's own validation does, but prepares each schema once: that
    makes thousands of items bearable.

    Args:
        content: The object as read from JSON.
        where: What to call it in messages.

    Raises:
        ArtifactError: Naming the object, and what a schema does not allow.
    """
    kind, extensions = content.get("type"), content.get("stac_extensions", [])
    if kind not in _TYPES or not isinstance(extensions, list):
        raise ArtifactError(f"{where} is not a STAC catalog, collection or item")
    unknown = sorted(set(map(str, extensions)) - set(extension_schemas()))
    if unknown:
        raise ArtifactError(f"{where} declares extensions that cannot be checked here: {', '.join(unknown)}")
    for address in (_core_address(kind, str(content.get("stac_version"))), *extensions):
        reasons = [_reason(error) for error in _compiled(address).iter_errors(content)]
        if reasons:
            raise ArtifactError(f"{where} is not valid by {address}: {'; '.join(reasons)[:_LONGEST]}")


def offline_validator() -> Any:
    """A validator for pystac that knows the extensions' schemas and never asks the network.

    Pass it to ``pystac.validation.set_validator`` before ``catalog.validate_all()``.
    """
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    validator = JsonSchemaSTACValidator()
    validator.schema_cache.update(extension_schemas())
    return validator


@lru_cache(maxsize=16)
def _compiled(address: str) -> Any:
    from jsonschema.validators import validator_for

    known = offline_validator()
    if address not in known.schema_cache:
        raise ArtifactError(f"no schema of {address} is at hand; the catalog must be of STAC 1.1.0")
    schema = known.schema_cache[address]
    return validator_for(schema)(schema, registry=known.registry)


@lru_cache(maxsize=16)
def _core_address(kind: str, version: str) -> str:
    from pystac import STACObjectType
    from pystac.validation.schema_uri_map import DefaultSchemaUriMap

    address = DefaultSchemaUriMap().get_object_schema_uri(STACObjectType[_TYPES[kind]], version)
    return address or f"STAC {version}"


def _reason(error: Any) -> str:
    """Where an object breaks a schema, and how; whole objects are not repeated."""
    place = "/".join(map(str, error.absolute_path)) or "top level"
    message = str(error.message)
    return f"{place}: {message if len(message) < _LONGEST else f'breaks the rule {error.validator}'}"
