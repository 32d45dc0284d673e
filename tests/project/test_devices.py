"""No device is hard-wired: one function chooses it, and all else goes where that says."""

from __future__ import annotations

import ast

import pytest
from helpers.project_files import ROOT, sources

# The one place that knows kinds of accelerators by name.
CHOICE = ROOT / "rsdistill" / "training" / "trainer.py"


def wired(tree: ast.AST) -> list[int]:
    """Lines that name a CUDA device or move something to one; asking what a device is counts for nothing."""
    compared = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        named = isinstance(node, ast.Constant) and str(node.value).startswith("cuda") and id(node) not in compared
        moved = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"
        if named or moved:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sources("rsdistill"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_names_a_device(path):
    lines = wired(ast.parse(path.read_text(encoding="utf-8")))
    assert len(lines) == (1 if path == CHOICE else 0), f"{path}: lines {lines}"


@pytest.mark.parametrize("line", ["x.cuda()", "x.to('cuda')", "device = 'cuda:0'", "torch.device(type='cuda')"])
def test_such_a_line_would_be_found(line):
    assert wired(ast.parse(line)) == [1]


def test_questions_are_no_choice():
    assert not wired(ast.parse("ok = device.type != 'cuda' and torch.cuda.is_available()"))
