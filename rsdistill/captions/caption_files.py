"""Readers of caption files: names of images to the sentences that describe them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rsdistill.errors import DatasetError

Sentences = dict[str, tuple[str, ...]]

_NAMES = ("filename", "file_name", "file", "image", "name", "chip", "id")
_TEXTS = ("caption", "captions", "text", "texts", "sentence", "sentences", "description", "raw")
_KNOWN = (
    "CSV or JSON lines with a column for the name and one for the text, {name: text}, the format of UCM-Captions and "
    "RSICD, or that of NWPU-Captions"
)


def read_captions(path: Path) -> Sentences:
    """Sentences by image name, in whichever of the known formats the file is.

    A name that comes several times keeps all its sentences, each one once.

    Args:
        path: A ``.csv``, ``.jsonl`` or ``.json`` file.

    Raises:
        DatasetError: If the file is missing, of no known format, or has an image without words.
    """
    readers: dict[str, Callable[[Path], Iterable[tuple[str, list[Any]]]]] = {
        ".csv": _read_csv,
        ".jsonl": _read_lines,
        ".ndjson": _read_lines,
        ".json": _read_json,
    }
    if path.suffix.lower() not in readers:
        raise DatasetError(f"captions file {path} is no .csv, .jsonl or .json file; give {_KNOWN}")
    found: dict[str, dict[str, None]] = {}
    entries = 0
    try:
        for name, texts in readers[path.suffix.lower()](path):
            entries += 1
            sentences = found.setdefault(name, {})
            sentences.update(dict.fromkeys(" ".join(str(text).split()) for text in texts if text is not None))
    except FileNotFoundError as error:
        raise DatasetError(f"captions file {path} does not exist; correct option path") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise DatasetError(
            f"captions file {path}, entry {entries + 1}, cannot be read ({error}); give {_KNOWN}"
        ) from error
    if not found:
        raise DatasetError(f"captions file {path} holds no captions; give {_KNOWN}")
    return {name: tuple(filter(None, sentences)) for name, sentences in found.items()}


def _read_csv(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Rows with a header; several text columns (``caption_1``, ``caption_2``) are several sentences."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from (_entry(row) for row in csv.DictReader(stream, restkey=""))


def _read_lines(path: Path) -> Iterator[tuple[str, list[Any]]]:
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if line.strip():
            yield _entry(json.loads(line))


def _read_json(path: Path) -> Iterator[tuple[str, list[Any]]]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, list):
        yield from (_entry(entry) for entry in content)
    elif isinstance(content.get("images"), list):
        # UCM-Captions (Qu et al., 2016) and RSICD (Lu et al., 2018), after Karpathy's format.
        yield from (_entry(entry) for entry in content["images"])
    else:
        for key, value in content.items():
            if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
                # NWPU-Captions (Cheng et al., 2022): a list a class, sentences under raw, raw_1, raw_2, ...
                yield from ((f"{key}/{name}", texts) for name, texts in map(_entry, value))
            else:
                yield key, _texts(value)


def _entry(entry: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Name and sentences of one image."""
    names = [key for key in _NAMES if entry.get(key) not in (None, "")]
    columns = [key for key in entry if _is_text(key)]
    if not names or not columns:
        raise ValueError(
            f"no {'text' if names else 'name'} among {', '.join(map(str, entry))}; a name stands under one of "
            f"{', '.join(_NAMES)}, a text under one of {', '.join(_TEXTS)}"
        )
    return str(entry[names[0]]), [text for key in columns for text in _texts(entry[key])]


def _is_text(key: str) -> bool:
    """Whether a column holds sentences, numbered ones included."""
    return key.rstrip("0123456789").rstrip("_") in _TEXTS


def _texts(value: Any) -> list[Any]:
    """The sentences of a value: a text, a list of them, or a list of ``{"raw": text}``."""
    values = value if isinstance(value, list) else [value]
    return [item["raw"] if isinstance(item, Mapping) else item for item in values]
