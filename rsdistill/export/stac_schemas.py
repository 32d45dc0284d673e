"""JSON schemas of the STAC extensions that the catalog uses, so that it can be checked without network.

The published schemas ship in no Python package. Those in the folder ``schemas`` say, in our own words,
what the specifications ask of the fields that the catalog writes: their types and ranges, that no misspelt
field of the extension's prefix slips through, and that an object which declares an extension uses it.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from rsdistill.errors import ArtifactError

_HOME = "https://stac-extensions.github.io"
PROJECTION = f"{_HOME}/projection/v2.0.0/schema.json"
RASTER = f"{_HOME}/raster/v2.0.0/schema.json"
EO = f"{_HOME}/eo/v2.0.0/schema.json"
FILE = f"{_HOME}/file/v2.1.0/schema.json"
PROCESSING = f"{_HOME}/processing/v1.2.0/schema.json"
MLM = f"{_HOME}/mlm/v1.5.2/schema.json"

_LONGEST = 300
_TYPES = {"Catalog": "CATALOG", "Collection": "COLLECTION", "Feature": "ITEM"}


@cache
def extension_schemas() -> dict[str, dict[str, Any]]:
    """The schemas by the address that an object declares the extension with."""
    folder = resources.files(__package__) / "schemas"
    schemas = [json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()]
    return {schema["$id"]: schema for schema in schemas}


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
