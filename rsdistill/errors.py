"""One exception class for each failure that a user can act on.

Every message names the file, option or band at fault and what to do about it.
The command line prints the message alone and exits with :data:`EXIT_CODE`.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE = 2


class RsdistillError(Exception):
    """Base of every error that a user can act on."""


class OptionError(RsdistillError):
    """An option is unknown, has the wrong type or a value out of range.

    Args:
        message: What is wrong, and what to do.
        option: Dotted path of the option in a config (``data.size``), by which its line is found; empty for none.
    """

    def __init__(self, message: str, option: str = "") -> None:
        super().__init__(message)
        self.option = option


class UnknownNameError(OptionError):
    """A name (dataset, codec, distiller, class, band, option) is not known.

    Args:
        kind: What was named, such as ``"dataset"``.
        name: The name given.
        known: The names that would be valid.
        option: As for :class:`OptionError`.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], option: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} '{name}': {suggestion(name, self.known)}", option)


class DatasetError(RsdistillError):
    """A dataset is missing, empty, incomplete or inconsistent."""


class ChipError(DatasetError):
    """One chip cannot be read, or does not fit its dataset."""


class SplitError(DatasetError):
    """The train, validation and test views asked for cannot be cut."""


class BandError(RsdistillError):
    """A band is unknown, lacks what is needed, or does not fit."""


class PolicyError(RsdistillError):
    """A policy for sensitive categories is invalid or does not fit the dataset."""


class CodecError(RsdistillError):
    """A codec cannot be built, loaded or applied to this data."""


class ModelError(RsdistillError):
    """A diffusion model, teacher or captioner cannot be built, loaded or used."""


class ArtifactError(RsdistillError):
    """A saved artifact is missing, damaged, altered or of another kind."""


class ExportError(RsdistillError):
    """Tiles cannot be written as asked."""


class ValidationError(RsdistillError):
    """An exported folder has faults."""


class StorageError(RsdistillError):
    """A folder cannot be written: permission, space, or something in the way."""


class DeviceError(RsdistillError):
    """The device, precision or strategy asked for is not available."""


class AuditError(RsdistillError):
    """An audit cannot be carried out on this pair of set and dataset."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known name is nearest to a misspelt one, or list them all.

    Args:
        name: The name given.
        known: The valid names.

    Returns:
        A phrase such as ``"did you mean 'kmeans'? (known: herding, kmeans)"``.
    """
    known = sorted(known)
    listed = f"known: {', '.join(known)}" if known else "none is known"
    folded = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return f"did you mean '{folded[near[0]]}'? ({listed})" if near else listed


_STORAGE_REASONS = {
    errno.ENOSPC: "the disk is full; free space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free space or choose another folder",
    errno.EACCES: "no permission to write; choose another folder or change its rights",
    errno.EPERM: "no permission to write; choose another folder or change its rights",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "a file is in the way; choose another name",
}


@contextmanager
def storage_errors(path: str | Path) -> Iterator[None]:
    """Turn the operating system's write failures into :class:`StorageError`.

    Args:
        path: The file or folder being written, named in the message.

    Raises:
        StorageError: If the disk is full, read-only or not permitted; or if a file elsewhere may not be opened.
    """
    try:
        yield
    except OSError as error:
        reason = _STORAGE_REASONS.get(error.errno or 0)
        if reason is None:
            raise
        if error.errno in (errno.EACCES, errno.EPERM) and _lies_elsewhere(error.filename, Path(path)):
            raise StorageError(f"cannot open {error.filename}: no permission; change its rights") from error
        raise StorageError(f"cannot write {path}: {reason}") from error


def _lies_elsewhere(name: object, path: Path) -> bool:
    """Whether a failed file is none of those being written, which lie in the folder of the final one."""
    return isinstance(name, str) and path.absolute().parent not in Path(name).absolute().parents
