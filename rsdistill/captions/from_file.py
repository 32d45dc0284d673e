"""Captions that a user already has."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from rsdistill.captions.base import CAPTIONERS, Captioner, Captions, listed
from rsdistill.classes import TEMPLATE, class_prompts
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.datasets.prepared import PreparedScenes
from rsdistill.errors import DatasetError, OptionError
from rsdistill.training.trainer import TrainerOptions
from rsdistill.utils.provenance import file_digest

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


_SUFFIXES = {".tif", ".tiff", ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".jp2", ".npy"}


@dataclass(frozen=True)
class CaptionMatches:
    """How names and chips found each other.

    Attributes:
        chips: Name of the captions of each chip, None where there are none, (N,).
        unused: Names that mean no chip.
    """

    chips: tuple[str | None, ...]
    unused: tuple[str, ...]


def match_names(names: Iterable[str], chip_ids: Sequence[str]) -> CaptionMatches:
    """Find each name's chip, whatever folder, suffix and case it is written in.

    Class folder and stem together decide; the stem alone does where no two chips share it.

    Args:
        names: Names in a captions file.
        chip_ids: Ids of all chips of a dataset, such as ``Airport/airport_1.jpg``.

    Raises:
        DatasetError: If a name fits several chips.
    """
    stems = Counter(_parts(chip)[-1] for chip in chip_ids)
    positions = {_parts(chip): position for position, chip in enumerate(chip_ids)}
    unique = {_parts(chip)[-1]: p for p, chip in enumerate(chip_ids) if stems[_parts(chip)[-1]] == 1}
    found: dict[int, str] = {}
    unused, ambiguous = [], []
    for name in names:
        parts = _parts(name)
        position = positions.get(parts, unique.get(parts[-1]))
        if position is not None:
            found[position] = name
        elif stems[parts[-1]] > 1:
            ambiguous.append(name)
        else:
            unused.append(name)
    if ambiguous:
        raise DatasetError(
            f"{len(ambiguous)} name(s) of captions fit several chips: {listed(ambiguous)}; write the class folder "
            "before the name, as in forest/1.tif"
        )
    return CaptionMatches(tuple(found.get(position) for position in range(len(chip_ids))), tuple(unused))


def match_numbers(names: Iterable[str], chips: int) -> CaptionMatches:
    """Take names as running numbers from 1 on, over the chips in order of class and name, as UCM-Captions does.

    Args:
        names: Names in a captions file, such as ``1.tif``.
        chips: Number of chips of the dataset.

    Raises:
        DatasetError: If a name is no number, or the last number is not the number of chips.
    """
    by_number: dict[int, str] = {}
    for name in names:
        stem = _parts(name)[-1]
        if not stem.isdecimal():
            raise DatasetError(f"name '{name}' of captions is no running number; leave option match at 'name'")
        by_number[int(stem)] = name
    if min(by_number) < 1 or max(by_number) != chips:
        raise DatasetError(
            f"captions are numbered {min(by_number)} to {max(by_number)}, but the dataset has {chips} chips; numbers "
            "fit only a dataset loaded whole, with all its classes and no chip left out"
        )
    return CaptionMatches(tuple(by_number.get(position + 1) for position in range(chips)), ())


def _parts(name: str) -> tuple[str, ...]:
    """Class folder, where there is one, and stem of a name, in lower case."""
    path = PurePosixPath(name.replace("\\", "/").lower().strip())
    last = path.stem if path.suffix in _SUFFIXES else path.name
    return (*path.parts[-2:-1], last)


class UnusedCaptionsWarning(UserWarning):
    """A captions file describes images that are no chips of the dataset."""


@CAPTIONERS.register("file", summary="captions from CSV, JSON lines, UCM-Captions, RSICD or NWPU-Captions")
class FileCaptioner(Captioner):
    """Sentences read from a file, matched to the chips by name.

    Folder, suffix and case of a name do not matter; where chips of two classes share a name, the class
    folder has to stand before it. Several sentences of a chip are all kept.

    Args:
        path: The file; must be given. See :func:`rsdistill.captions.from_file.read_captions` for its formats.
        match: ``name``, or ``number`` where the names are running numbers over the dataset's chips in order of
            class and name, from 1 on, as in UCM-Captions.
        missing: What becomes of chips without captions: ``error``, or ``template``.
        template: What ``template`` writes; ``{name}`` stands for the readable class name.

    Raises:
        OptionError: If no path is given.
    """

    name = "file"
    needs_names = True

    def __init__(
        self,
        path: str | None = None,
        match: Literal["name", "number"] = "name",
        missing: Literal["error", "template"] = "error",
        template: str = TEMPLATE,
    ) -> None:
        if not path:
            raise OptionError("captioner 'file' needs option path: a file of captions (.csv, .jsonl or .json)")
        self.path, self.match, self.missing, self.template = path, match, missing, template

    def input_digest(self) -> str:
        """Digest of the captions file; empty while there is none."""
        path = Path(self.path).expanduser()
        return f"sha256:{file_digest(path)}" if path.is_file() else ""

    def _caption(
        self, data: SceneData, view: SceneView, split: str, folder: Path | None, trainer: TrainerOptions
    ) -> Captions:
        if isinstance(data.source, PreparedScenes):
            raise DatasetError(
                f"a prepared dataset keeps no names to match captions of {self.path} by; caption the dataset as loaded"
            )
        path = Path(self.path).expanduser()
        prompts = class_prompts(data.classes, self.template)
        sentences = read_captions(path)
        matches = self._match(sentences, data)
        named = [matches.chips[index] for index in view.indices]
        if empty := [name for name in matches.chips if name is not None and not sentences[name]]:
            raise DatasetError(
                f"captions file {self.path} has {len(empty)} image(s) without words: {listed(empty)}; "
                "write a caption for each or take them out"
            )
        lacking = [chip for chip, name in zip(view.chip_ids, named, strict=True) if name is None]
        if lacking and self.missing == "error":
            raise DatasetError(
                f"captions file {path} has nothing on {len(lacking)} of the {len(view)} {split} chips: "
                f"{listed(lacking)}; add them, or set option missing to 'template'"
            )
        texts = tuple(
            (prompts[label],) if name is None else sentences[name]
            for name, label in zip(named, view.labels, strict=True)
        )
        figures = {"unused": len(matches.unused), "fallbacks": len(lacking), "sentences": sum(map(len, texts))}
        return Captions(texts, split, self.name, self.input_digest(), figures=figures)

    def _match(self, sentences: Sentences, data: SceneData) -> CaptionMatches:
        if self.match == "number":
            return match_numbers(sentences, len(data.source))
        matches = match_names(sentences, data.source.chip_ids)
        if len(matches.unused) == len(sentences):
            numbers = all(Path(name).stem.isdecimal() for name in sentences)
            some = "" if data.policy else f" ({listed(list(sentences), 3)})"
            hint = "set option match to 'number' if they count the chips in order, or " if numbers else ""
            raise DatasetError(
                f"no name in captions file {self.path}{some} is that of a chip of "
                f"'{data.name}' ({listed(list(data.source.chip_ids), 3)}); {hint}correct the names"
            )
        if matches.unused:
            warnings.warn(
                f"captions file {self.path} describes {len(sentences)} images; {len(matches.unused)} of them are no "
                # Under a policy they may be those of excluded chips, whose names go into no log.
                f"chips of '{data.name}' and are left out" + (f": {listed(matches.unused)}" if not data.policy else ""),
                UnusedCaptionsWarning,
                stacklevel=2,
            )
        return matches
