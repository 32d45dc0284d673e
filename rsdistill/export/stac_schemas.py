"""Own JSON schemas of the STAC extensions that the catalog uses, so that it can be checked without network.

The extensions' published schemas ship in no Python package. These say, in our own
words, what the specifications ask of the fields that the catalog writes: their
types and ranges, that no misspelt field of the extension's prefix slips through,
and that an object which declares an extension uses it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rsdistill.errors import ArtifactError

Schema = dict[str, Any]

_HOME = "https://stac-extensions.github.io"
PROJECTION = f"{_HOME}/projection/v2.0.0/schema.json"
RASTER = f"{_HOME}/raster/v2.0.0/schema.json"
EO = f"{_HOME}/eo/v2.0.0/schema.json"
FILE = f"{_HOME}/file/v2.1.0/schema.json"
PROCESSING = f"{_HOME}/processing/v1.2.0/schema.json"
MLM = f"{_HOME}/mlm/v1.5.2/schema.json"

_DIALECT = "http://json-schema.org/draft-07/schema#"
_TEXT: Schema = {"type": "string"}
_WORDS: Schema = {"type": "string", "minLength": 1}
_NUMBER: Schema = {"type": "number"}
_POSITIVE: Schema = {"type": "number", "exclusiveMinimum": 0}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_SHAPE: Schema = {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}


def _numbers(*lengths: int) -> Schema:
    return {"type": "array", "items": _NUMBER, "anyOf": [{"minItems": n, "maxItems": n} for n in lengths]}


_PROJECTION_FIELDS: Schema = {
    "proj:code": _TEXT_OR_NULL,
    "proj:wkt2": _TEXT_OR_NULL,
    "proj:projjson": {"type": ["object", "null"]},
    "proj:geometry": {"type": "object", "required": ["type"]},
    "proj:bbox": _numbers(4, 6),
    "proj:centroid": {"type": "object", "required": ["lat", "lon"]},
    "proj:shape": _SHAPE,
    "proj:transform": _numbers(6, 9),
}
_RASTER_FIELDS: Schema = {
    "raster:sampling": {"enum": ["area", "point"]},
    "raster:bits_per_sample": _COUNT,
    "raster:spatial_resolution": _POSITIVE,
    "raster:scale": _NUMBER,
    "raster:offset": _NUMBER,
    "raster:histogram": {"type": "object", "required": ["count", "min", "max", "buckets"]},
}
_EO_COMMON_NAMES = [
    *("pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge", "rededge071", "rededge075"),
    *("rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12"),
]
_PERCENT: Schema = {"type": "number", "minimum": 0, "maximum": 100}
_EO_FIELDS: Schema = {
    "eo:common_name": {"enum": _EO_COMMON_NAMES},
    "eo:center_wavelength": _POSITIVE,
    "eo:full_width_half_max": _POSITIVE,
    "eo:solar_illumination": {"type": "number", "minimum": 0},
    "eo:cloud_cover": _PERCENT,
    "eo:snow_cover": _PERCENT,
}
_FILE_FIELDS: Schema = {
    # A multihash; 12 20 stands for the 32 bytes of sha256.
    "file:checksum": {"type": "string", "pattern": "^(1220[0-9a-f]{64}|(?!1220)([0-9a-f]{2})+)$"},
    "file:size": _COUNT,
    "file:header_size": _COUNT,
    "file:byte_order": {"enum": ["big-endian", "little-endian"]},
    "file:values": {"type": "array", "minItems": 1},
    "file:local_path": _WORDS,
}
_PROCESSING_FIELDS: Schema = {
    "processing:expression": {"type": "object", "required": ["format", "expression"]},
    "processing:lineage": _WORDS,
    "processing:level": _WORDS,
    "processing:facility": _WORDS,
    "processing:datetime": {"type": "string", "format": "date-time"},
    "processing:version": _WORDS,
    "processing:software": {"type": "object", "additionalProperties": _TEXT},
}
_MLM_STRUCTURE: Schema = {
    "type": "object",
    "required": ["shape", "dim_order", "data_type"],
    "properties": {
        "shape": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": -1}},
        "dim_order": {"type": "array", "minItems": 1, "uniqueItems": True, "items": _WORDS},
        "data_type": _WORDS,
    },
}
_MLM_TASKS: Schema = {"type": "array", "minItems": 1, "uniqueItems": True, "items": _WORDS}
_MLM_FIELDS: Schema = {
    "mlm:name": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_.\\-\\s]+[A-Za-z0-9]$"},
    "mlm:architecture": _WORDS,
    "mlm:framework": _WORDS,
    "mlm:framework_version": _WORDS,
    "mlm:tasks": _MLM_TASKS,
    "mlm:input": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "bands", "input"],
            "properties": {"name": _WORDS, "bands": {"type": "array"}, "input": _MLM_STRUCTURE},
        },
    },
    "mlm:output": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "tasks", "result"],
            "properties": {"name": _WORDS, "tasks": _MLM_TASKS, "result": _MLM_STRUCTURE},
        },
    },
    "mlm:artifact_type": _WORDS,
}


def extension_schemas() -> dict[str, Schema]:
    """The schemas by the address that an object declares the extension with."""
    return {
        PROJECTION: _extension(PROJECTION, "proj", _PROJECTION_FIELDS),
        RASTER: _extension(RASTER, "raster", _RASTER_FIELDS),
        EO: _extension(EO, "eo", _EO_FIELDS),
        FILE: _extension(FILE, "file", _FILE_FIELDS),
        PROCESSING: _extension(PROCESSING, "processing", _PROCESSING_FIELDS),
        MLM: _mlm(),
    }


def _extension(address: str, prefix: str, fields: Schema) -> Schema:
    """Schema of one extension: its fields are right wherever they stand, and stand somewhere."""
    known = {
        "type": "object",
        "properties": fields,
        "patternProperties": {f"^(?!{prefix}:)": {}},
        "additionalProperties": False,
    }
    carrier = {"allOf": [known, {"properties": {"bands": {"type": "array", "items": known}}}]}
    named: Schema = {"type": "object", "not": {"propertyNames": {"not": {"pattern": f"^{prefix}:"}}}}
    used = {"anyOf": [named, {"required": ["bands"], "properties": {"bands": {"contains": named}}}]}
    used_by_one: Schema = {"type": "object", "not": {"additionalProperties": {"not": used}}}
    places = {
        "properties": carrier,
        "assets": {"type": "object", "additionalProperties": carrier},
        "item_assets": {"type": "object", "additionalProperties": carrier},
        "links": {"type": "array", "items": known},
        "providers": {"type": "array", "items": known},
    }
    somewhere = [
        _holding("properties", used),
        _holding("assets", used_by_one),
        _holding("item_assets", used_by_one),
        _holding("providers", {"type": "array", "contains": named}),
    ]
    return {
        "$schema": _DIALECT,
        "$id": address,
        "type": "object",
        "required": ["type", "stac_extensions"],
        "properties": {"stac_extensions": {"type": "array", "contains": {"const": address}}, **places},
        "anyOf": somewhere,
    }


def _mlm() -> Schema:
    """Schema of the model extension: an item names the model, its tasks and shapes, and has a model asset."""
    needed = ["mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"]
    model = {
        "required": ["roles", "mlm:artifact_type"],
        "properties": {"roles": {"type": "array", "contains": {"const": "mlm:model"}}},
    }
    item = {
        "properties": {
            "properties": {"required": needed},
            "assets": {"not": {"additionalProperties": {"not": model}}},
        }
    }
    schema = _extension(MLM, "mlm", _MLM_FIELDS)
    return {**schema, "if": {"properties": {"type": {"const": "Feature"}}}, "then": item}


def _holding(key: str, schema: Schema) -> Schema:
    return {"required": [key], "properties": {key: schema}}


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
