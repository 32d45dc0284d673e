"""The manifest: what made an artifact, from what, under which licence."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from rsdistill.errors import StorageError, storage_errors

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


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON so that the file is either complete or absent.

    Raises:
        StorageError: If the folder cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with storage_errors(path):
        try:
            partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def complete_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that takes the final name only when the block succeeds.

    Args:
        path: The final folder.
        overwrite: Replace a folder that is there.

    Raises:
        StorageError: If the folder exists and may not be replaced, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise StorageError(f"{path} exists; choose another name, or replace it with overwrite=True")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        partial.chmod(0o755)
        try:
            yield partial
            if path.exists():
                shutil.rmtree(path)
            os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
