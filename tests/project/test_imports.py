"""Imports point down, stay light, and keep each library in its room."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.project_files import ROOT, sources

import rsdistill


def loaded_by(statement: str) -> set[str]:
    """Top-level modules, beyond the standard library, that a statement loads in a fresh interpreter."""
    program = (
        f"import json, sys; before = set(sys.modules); {statement}; "
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1])) - sys.stdlib_module_names


def test_package_import_loads_nothing_else():
    assert loaded_by("import rsdistill") == {"rsdistill", "lazy_loader"}


@pytest.mark.parametrize("statement", ["import rsdistill.export", "from rsdistill import export_tiles"])
def test_export_loads_no_torch(statement):
    assert not loaded_by(statement) & {"torch", "torchvision", "torchgeo", "diffusers", "transformers", "lightning"}


@pytest.mark.parametrize("name", rsdistill.__all__)
def test_public_name_is_there(name):
    assert name in dir(rsdistill)
    found = getattr(rsdistill, name)
    assert isinstance(found, str) if name == "__version__" else found.__name__ == name


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(rsdistill, "no_such_name")  # noqa: B009 - mypy would refuse the plain spelling


def test_import_contracts_hold():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Calls in a file, by the dotted name that is called."""
    found = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    return [(ast.unparse(node.func), node) for node in found]


def test_only_training_builds_a_trainer():
    builders = {p.name for p in sources("rsdistill") for name, _ in calls(p) if name.split(".")[-1] == "Trainer"}
    assert builders == {"trainer.py"}


@pytest.mark.parametrize(
    ("loader", "option", "value"), [("torch.load", "weights_only", True), ("np.load", "allow_pickle", False)]
)
def test_nothing_is_unpickled(loader, option, value):
    for path in sources("rsdistill"):
        for name, call in calls(path):
            given = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
            assert name != loader or given.get(option) is value, f"{path.name}:{call.lineno}: {loader} may unpickle"
