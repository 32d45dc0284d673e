"""One version, the full licence, and nothing in the files that holds on one machine only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from helpers.project_files import PROJECT, ROOT, tracked_texts
from packaging.version import Version

# Spelt in pieces, so that this file does not find itself.
PLACES = "|".join(["/" + "root/", "/" + "work/", "/" + "opt/", "file:" + "//", "/Us" + "ers/"])
INDEXES = "|".join(
    [r"python" + r"hosted\." + "org", r"py" + r"pi\." + "org/simple", "index" + "-url", "find-" + "links"]
)


def release() -> str:
    """The release named at the top of the changelog, out or still to come."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    return newest[1]


def test_release_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((ROOT / "recipe/recipe.yaml").read_text(encoding="utf-8"))
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["version"]
    assert {str(citation["version"]), recipe["context"]["version"]} == {release()}
    assert build == {"source": "vcs", "fallback-version": f"{release()}.dev0"}


def test_version_comes_from_git_alone():
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert Version(metadata.version("rsdistill")) <= Version(release()), "name the coming release in CHANGELOG.md"


def test_tagged_commit_is_the_release_that_its_tag_names():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tags = subprocess.run(["git", "tag", "--points-at"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert set(tags.stdout.split()) <= {f"v{release()}"}


def test_licence_is_apache_2_everywhere():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "Apache License\n                           Version 2.0" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert {PROJECT["license"], citation["license"]} == {"Apache-2.0"}


@pytest.mark.parametrize("pattern", [rf"(?<![\w.~])(?:{PLACES})", INDEXES], ids=["machine paths", "package indexes"])
def test_tracked_files_name_no(pattern):
    found = [f"{name}: {hit[0]}" for name, text in tracked_texts().items() for hit in re.finditer(pattern, text)]
    assert not found


def test_no_lock_file_is_tracked():
    assert not [name for name in tracked_texts() if re.search(r"\.lock$|-lock\.ya?ml$|^requirements.*\.txt$", name)]


def test_ci_script_can_be_run():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_github_files_hold_what_github_asks_for(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "workflows":
        (job,) = content["jobs"].values()
        assert job["steps"][-1]["run"] == ".ci/run"
    elif path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        ids = [part["id"] for part in content["body"]]
        assert content["name"] and content["description"] and len(ids) == len(set(ids))
        assert all(part["attributes"]["label"] for part in content["body"])


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the project, without touching its environment."""
    return subprocess.run(["make", *arguments], cwd=ROOT, check=False, capture_output=True, text=True)


def test_make_lists_its_targets():
    done = make("help")
    assert done.returncode == 0, done.stderr
    assert {"demo", "test", "lint", "types", "imports", "notebooks"} <= {x.split()[0] for x in done.stdout.splitlines()}


def test_make_names_what_to_install_where_python_is_missing(tmp_path):
    done = make("install", f"VENV={tmp_path / 'venv'}", "PYTHON=python-that-is-not-there")
    assert done.returncode != 0
    assert "install Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_make_refuses_another_python(tmp_path):
    old = tmp_path / "python-old"
    old.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit\nexec {sys.executable} -c "exit(1)"\n'
    )
    old.chmod(0o755)
    done = make("install", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Python 3.9.1 is not supported" in done.stderr
    assert not (tmp_path / "venv").exists()
