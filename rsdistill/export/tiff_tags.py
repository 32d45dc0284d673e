"""The one TIFF tag that GDAL's COG driver cannot be asked to set: which extra bands are alpha."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_EXTRA_SAMPLES, _SHORT = 338, 3
_ENTRY, _ENTRY_BYTES = "<HHI", 12
_ALPHA_KINDS = (1, 2)


def clear_alpha(path: Path) -> None:
    """Say in the TIFF itself that no band is alpha.

    The COG driver marks the fourth band of 8-bit images as alpha and takes no option
    against it; readers without GDAL would show near infrared as transparency.

    Args:
        path: A GeoTIFF of four bands or fewer extra bands as the COG driver writes it.
    """
    with path.open("r+b") as stream:
        for position, kinds in list(_extra_samples(stream)):
            if any(kind in _ALPHA_KINDS for kind in kinds):
                stream.seek(position)
                stream.write(struct.pack(f"<{len(kinds)}H", *(0 for _ in kinds)))


def has_alpha(path: Path) -> bool:
    """Whether a TIFF calls one of its extra bands alpha."""
    with path.open("rb") as stream:
        return any(kind in _ALPHA_KINDS for _, kinds in _extra_samples(stream) for kind in kinds)


def _extra_samples(stream: BinaryIO) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Where each image of a classic little-endian TIFF says what its extra bands are, and what it says.

    The COG driver writes this kind below 4 GB; of other kinds nothing is found.
    """
    header = stream.read(8)
    if header[:4] != b"II*\0":
        return
    (directory,) = struct.unpack("<I", header[4:])
    while directory:
        stream.seek(directory)
        (count,) = struct.unpack("<H", stream.read(2))
        entries = stream.read(_ENTRY_BYTES * count)
        (following,) = struct.unpack("<I", stream.read(4))
        for start in range(0, len(entries), _ENTRY_BYTES):
            tag, kind, length = struct.unpack_from(_ENTRY, entries, start)
            if tag != _EXTRA_SAMPLES or kind != _SHORT:
                continue
            # Up to four bytes stand in the entry itself, more elsewhere.
            position = directory + 2 + start + 8
            if 2 * length > 4:
                (position,) = struct.unpack_from("<I", entries, start + 8)
            stream.seek(position)
            yield position, struct.unpack(f"<{length}H", stream.read(2 * length))
        directory = following
