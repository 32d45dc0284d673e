"""Files: written completely or not at all, and YAML read strictly."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rsdistill.errors import RsdistillError, StorageError, storage_errors

# How names of files begin that are still being written.
PARTIAL = ".partial-"


@contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside a file, which takes the file's name only when the block succeeds.

    The temporary name keeps the file's ending. What a block writes there may also be a folder.

    Raises:
        StorageError: If the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(PARTIAL + path.name)
    with storage_errors(path):
        # Where a file is in the folder's place, writing says so better than making the folder.
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        try:
            _remove(partial)
            yield partial
            if partial.is_dir():
                _remove(path)
            os.replace(partial, path)
        finally:
            _remove(partial)


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON so that the file is either complete or absent.

    Raises:
        StorageError: If the folder cannot be written.
    """
    with complete_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class YamlKind:
    """What a YAML file is for, as messages say it.

    Attributes:
        word: What the file is called: ``policy``.
        error: What is raised if it cannot be used.
        missing: What to do where it does not exist.
        shape: What its top level must hold.
    """

    word: str
    error: type[RsdistillError]
    missing: str
    shape: str


@dataclass(frozen=True)
class YamlFile:
    """What a YAML file holds.

    Attributes:
        values: Its groups.
        lines: Line of each key by its dotted path (``data.size``), and of each entry of a list (``rules[0]``).
    """

    values: dict[str, Any]
    lines: dict[str, int]


def read_yaml(path: Path, kind: YamlKind) -> YamlFile:
    """Read a file whose top level is a mapping; a key given twice is a mistake.

    Raises:
        RsdistillError: Of the kind's class, if it is missing, not valid YAML, holds no mapping, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise kind.error(f"{kind.word} {path} does not exist; {kind.missing}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise kind.error(f"{kind.word} {path} cannot be read ({error}); name a YAML file") from error
    return parse_yaml(text, str(path), kind)


def parse_yaml(text: str, where: str, kind: YamlKind) -> YamlFile:
    """Parse such a text; see :func:`read_yaml`."""
    lines: dict[str, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            _note_lines(root, "", lines, (), f"{kind.word} {where}", kind)
            values = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" (line {mark.line + 1})" if mark is not None else ""
        raise kind.error(f"{kind.word} {where} is not valid YAML{at}; mend it") from error
    if not isinstance(values, dict):
        raise kind.error(f"{kind.word} {where} must hold {kind.shape}")
    return YamlFile(values, lines)


def _note_lines(
    node: yaml.Node | None, path: str, lines: dict[str, int], above: tuple[int, ...], file: str, kind: YamlKind
) -> None:
    """Note where the parts of a node begin, which may hold itself by an alias.

    YAML lets the last of two equal keys win in silence; here they are a mistake.
    """
    if id(node) in above:
        return
    parts: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.SequenceNode):
        parts = [(f"{path}[{number}]", entry, entry) for number, entry in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        parts = [(f"{path}.{key.value}" if path else str(key.value), key, value) for key, value in node.value]
    seen: set[str] = set()
    for name, start, value in parts:
        line = start.start_mark.line + 1
        if name in seen:
            raise kind.error(f"{file}, line {line}: '{start.value}' is given twice; keep one")
        seen.add(name)
        lines[name] = line
        _note_lines(value, name, lines, (*above, id(node)), file, kind)
