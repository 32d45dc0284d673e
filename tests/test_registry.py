"""Plug-ins: built-in ones, those of other packages by entry points, and modules named by hand."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint

import pytest

from rsdistill import registry as module
from rsdistill.errors import OptionError, UnknownNameError
from rsdistill.registry import PluginWarning, Registry, import_plugins

PLUGIN = """\
from fruit_home import FRUITS


@FRUITS.register({name!r}, summary="sour")
def make():
    return {name!r}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A module with a registry, in a folder that is imported from; what is imported is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fruit_home.py").write_text(
        "from rsdistill.registry import Registry\nFRUITS = Registry('fruit', 'fruit_home')\n"
    )
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def fruits():
    return importlib.import_module("fruit_home").FRUITS


def write_plugin(folder, file, name):
    path = folder / f"{file}.py"
    path.write_text(PLUGIN.format(name=name))
    return path


@pytest.mark.parametrize(
    ("kind", "group"), [("dataset", "rsdistill.datasets"), ("export format", "rsdistill.export_formats")]
)
def test_group_follows_from_the_kind(kind, group):
    assert Registry(kind, "json").group == group
    assert Registry(kind, "json", group="mine").group == "mine"


def test_entry_points_are_loaded_once_and_a_broken_one_is_named(home, monkeypatch):
    write_plugin(home, "lemon_plugin", "lemon")
    (home / "broken_plugin.py").write_text("import nowhere_to_be_found\n")
    asked = []

    def points(group):
        asked.append(group)
        return [EntryPoint("broken", "broken_plugin", group), EntryPoint("lemon", "lemon_plugin:make", group)]

    monkeypatch.setattr(module, "entry_points", points)
    with pytest.warns(PluginWarning, match=r"fruit 'broken' \(broken_plugin\).*nowhere_to_be_found"):
        assert fruits().names() == ["lemon"]
    assert fruits().create("lemon") == "lemon"
    assert asked == ["rsdistill.fruits"]


def test_modules_and_files_are_imported_and_a_file_only_once(home):
    write_plugin(home, "lime_plugin", "lime")
    path = write_plugin(home, "plum-plugin", "plum")
    import_plugins(["lime_plugin", str(path), str(path)])
    assert fruits().names() == ["lime", "plum"]


def test_a_file_named_like_a_known_module_does_not_replace_it(home):
    import json

    import_plugins([str(write_plugin(home, "json", "quince"))])
    assert fruits().names() == ["quince"]
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        ("def (", "SyntaxError"),
        ("raise ValueError('one\\ntwo')", "ValueError: one two"),
    ],
)
def test_what_cannot_be_imported_is_named_in_one_line(home, content, reason):
    path = home / "faulty.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError, match=f"plug-in '.*faulty.py' cannot be imported.*{reason}") as caught:
        import_plugins([str(path)])
    assert "\n" not in str(caught.value)
    assert "faulty" not in sys.modules


def test_missing_module_and_unknown_name_are_refused(home):
    with pytest.raises(OptionError, match="nowhere_at_all"):
        import_plugins(["nowhere_at_all"])
    with pytest.raises(UnknownNameError):
        fruits().get("lemon")
