"""A YAML file as plain values, strictly: a key given twice is a mistake, and lines are known for messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rsdistill.errors import PolicyError


@dataclass(frozen=True)
class YamlFile:
    """What a YAML file holds.

    Attributes:
        values: Its groups.
        lines: Line of each key of the top level, and of each entry of its lists (``rules[0]``).
    """

    values: dict[str, Any]
    lines: dict[str, int]


def read_yaml(path: Path) -> YamlFile:
    """Read a file whose top level is a mapping.

    Raises:
        PolicyError: If it is missing, not valid YAML, holds no mapping, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PolicyError(f"policy {path} does not exist; 'rsdistill policy init DATASET' writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy {path} cannot be read ({error}); name a YAML file") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> YamlFile:
    """Parse such a text; see :func:`read_yaml`."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        _refuse_twice(root, where)
        values = loader.construct_document(root) if root is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" (line {mark.line + 1})" if mark is not None else ""
        raise PolicyError(f"policy {where} is not valid YAML{at}; mend it") from error
    finally:
        loader.dispose()
    if not isinstance(values, dict) or not isinstance(root, yaml.MappingNode):
        raise PolicyError(f"policy {where} must hold 'dataset:' and 'rules:'; see 'rsdistill policy init'")
    return YamlFile(values, _lines(root))


def _lines(root: yaml.MappingNode) -> dict[str, int]:
    lines = {}
    for key, value in root.value:
        lines[str(key.value)] = key.start_mark.line + 1
        if isinstance(value, yaml.SequenceNode):
            for number, entry in enumerate(value.value):
                lines[f"{key.value}[{number}]"] = entry.start_mark.line + 1
    return lines


def _refuse_twice(root: yaml.Node | None, where: str) -> None:
    """YAML lets the last of two equal keys win in silence."""
    nodes, done = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in done:
            continue
        done.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            nodes += [value for _, value in node.value]
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for number, key in enumerate(keys):
                if key.value in [earlier.value for earlier in keys[:number]]:
                    line = key.start_mark.line + 1
                    raise PolicyError(f"policy {where}, line {line}: '{key.value}' is given twice; keep one")
