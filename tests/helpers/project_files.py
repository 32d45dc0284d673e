"""Where the project's own files are, and what they say of its dependencies."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(*extras: str) -> dict[str, str]:
    """Names to version bounds of the dependencies, or of some extras."""
    lines = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    parsed = map(Requirement, lines if extras else PROJECT["dependencies"])
    return {canonicalize_name(r.name): str(r.specifier) for r in parsed}


def sources(folder: str) -> list[Path]:
    """Python files of a folder of the project."""
    return sorted((ROOT / folder).rglob("*.py"))


def tracked_texts() -> dict[str, str]:
    """Paths and contents of every text file that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content:
            texts[name] = content.decode("utf-8")
    return texts
