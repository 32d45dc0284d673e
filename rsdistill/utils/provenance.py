"""The manifest: what made an artifact, from what, under which licence."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

# IPTC's vocabulary for how a picture came to be.
SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
REAL = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"

_LIBRARIES = ("torch", "diffusers", "transformers", "lightning", "torchgeo", "rasterio", "numpy", "scikit-learn")


def package_version() -> str:
    """Version of rsdistill as installed."""
    try:
        return metadata.version("rsdistill")
    except metadata.PackageNotFoundError:
        return "0+unknown"


@cache
def code_version(*plugins: object) -> str:
    """Digest of the package's code: one changed line gives another, committed or not.

    Args:
        *plugins: Classes and functions of other packages, whose files count too.
    """
    hashed = hashlib.sha256()
    package = Path(__file__).parents[1]
    outside = {path for path in map(_source_file, plugins) if path is not None and not path.is_relative_to(package)}
    own = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in [*sorted(own), *sorted(outside)]:
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def _source_file(plugin: Any) -> Path | None:
    """File of a class or function; None for one that was typed in, whose code nothing can tell."""
    try:
        name = inspect.getsourcefile(plugin)
    except TypeError:
        return None
    return None if name is None or not Path(name).exists() else Path(name)


# Public as rsdistill.__version__.
__version__ = package_version()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that shape results, and of Python."""
    versions = {"python": platform.python_version(), "rsdistill": package_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=True)


def digest(value: Any) -> str:
    """sha256 of a plain value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
