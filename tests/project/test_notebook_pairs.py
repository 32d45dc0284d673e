"""Notebooks are kept beside a script with the same content, and without outputs."""

from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.*") if path.suffix in (".py", ".ipynb"))


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def test_there_is_a_quickstart():
    assert "quickstart" in NOTEBOOKS


@pytest.mark.parametrize("name", sorted(set(NOTEBOOKS)))
def test_script_and_notebook_are_equal(name):
    assert cells(FOLDER / f"{name}.ipynb") == cells(FOLDER / f"{name}.py")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebook_holds_no_outputs(path):
    code = [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert code and not [cell for cell in code if cell.outputs or cell.execution_count]
