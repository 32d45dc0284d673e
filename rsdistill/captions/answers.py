"""Answers of a model, kept on disk as they come, so that no picture is described twice."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from rsdistill.errors import storage_errors

_SUFFIX = ".answers.jsonl"


class Answers:
    """Texts by key, in a folder that several processes write to at once.

    Each process appends whole lines to a file of its own. A process that is killed leaves at most
    one torn line at the end of its file, which readers pass over.

    Args:
        folder: Where the files lie; made at the first write. None keeps answers in memory alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._mine = folder, f"{uuid.uuid4().hex}{_SUFFIX}"
        self._known: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        """All answers there are, those of other processes included."""
        if self._folder is not None and self._folder.is_dir():
            for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
                self._known.update(_whole_lines(path))
        return dict(self._known)

    def add(self, answers: Mapping[str, str]) -> None:
        """Keep some answers; they are on disk, all of them, when this returns.

        Raises:
            StorageError: If the folder cannot be written.
        """
        self._known.update(answers)
        if self._folder is None:
            return
        lines = "".join(json.dumps({"key": key, "text": text}) + "\n" for key, text in answers.items())
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / self._mine).open("a", encoding="ascii") as stream:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())


def _whole_lines(path: Path) -> dict[str, str]:
    *whole, _torn = path.read_bytes().split(b"\n")
    found = {}
    for line in whole:
        try:
            entry = json.loads(line)
            found[str(entry["key"])] = str(entry["text"])
        except (ValueError, KeyError, TypeError):
            continue
    return found
