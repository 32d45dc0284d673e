"""The shape of the house: no circles, few rooms, files of a readable size, tests where one looks for them."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers.project_files import ROOT, sources

PACKAGE = ROOT / "rsdistill"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources("rsdistill")}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path.name}:{node.lineno} imports by a relative name"
            # "from room import module" reads the module, "from room import name" the room's __init__.
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in named}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def first_circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_two_files_import_each_other():
    graph = {name: imports(path) - {name} for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 500
    assert not first_circle(graph)


def test_a_circle_would_be_found():
    assert first_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_at_most_eight_files_lie_at_the_top():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_files_are_few_and_of_a_readable_size():
    assert len(MODULES) <= 150
    sizes = {name: len(path.read_text("utf-8").splitlines()) for name, path in MODULES.items()}
    plain = {name: size for name, size in sizes.items() if not MODULES[name].name.startswith("__")}
    assert not {name: size for name, size in plain.items() if not 40 <= size <= 400}


def test_runs_and_commands_know_no_method():
    files = [*sources("rsdistill/pipeline"), *sources("rsdistill/cli")]
    assert len(files) > 8
    assert not [path.name for path in files if "dpd" in path.read_text("utf-8").lower()]
    assert not [path.name for path in files if "aggregation" in path.read_text("utf-8")]


def test_no_two_public_classes_share_a_name():
    names = Counter(
        node.name
        for path in MODULES.values()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not {name for name, count in names.items() if count > 1}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_a_test_file_bears_the_name_of_a_module(path):
    room = path.parent.relative_to(ROOT / "tests")
    if room.parts[:1] == ("project",):
        return
    stem = path.stem.removeprefix("test_")
    modules = [found.stem for found in (PACKAGE / room).glob("*.py")]
    assert any(stem == module or stem.startswith(f"{module}_") for module in modules), f"no module for {path.name}"
