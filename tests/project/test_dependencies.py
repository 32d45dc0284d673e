"""The lists of dependencies agree with each other and with what the code imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from helpers.project_files import PROJECT, ROOT, requirements, sources
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec
from rattler_build import Stage0Recipe, VariantConfig

# Where conda-forge's name is another one.
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "huggingface-hub": "huggingface_hub",
    "docstring-parser": "docstring_parser",
}
# Looked up on conda-forge under their own name; a new dependency is looked up before it joins either list.
ON_CONDA_FORGE = set(
    """
    diffusers geopandas h5netcdf h5py hypothesis import-linter jinja2 joblib jsonschema jupytext lazy-loader
    lightning mypy nbmake numpy pandas pandas-stubs peft pillow pre-commit py-rattler py-rattler-build pyarrow
    pydantic pyogrio pyproj pystac pytest pytest-cov pytest-timeout pytest-xdist pyyaml rasterio rio-cogeo ruff
    safetensors scikit-learn scipy shapely tokenizers torchgeo torchmetrics torchvision tqdm transformers
    types-pyyaml types-tqdm xarray zarr
    """.split()
)


def conda(wanted: dict[str, str]) -> dict[str, str]:
    """The same requirements under conda-forge's names."""
    unknown = wanted.keys() - CONDA_NAMES.keys() - ON_CONDA_FORGE
    assert not unknown, f"look up on conda-forge, then list here: {sorted(unknown)}"
    return {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()}


def matched(lines: list[str]) -> dict[str, str]:
    """Names to version bounds of conda's package lines."""
    specs = [MatchSpec(line, strict=True) for line in lines]
    return {s.name.normalized: str(SpecifierSet(str(s.version or ""))) for s in specs}


BUILD_SYSTEM = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
PYTHON = str(SpecifierSet(PROJECT["requires-python"]))


def test_environment_lists_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *packages, last = environment["dependencies"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert last == {"pip": ["-e ."]}
    assert len(packages) == len({line.split()[0] for line in packages}), "a package is listed twice"
    assert matched(packages) == {"python": PYTHON, "pip": "", **conda(requirements()), **conda(requirements("dev"))}


def test_recipe_is_valid_and_runs_with_the_same_packages():
    recipe = Stage0Recipe.from_yaml((ROOT / "recipe/recipe.yaml").read_text(encoding="utf-8"))
    (variant,) = recipe.render(VariantConfig())
    rendered = variant.recipe
    assert rendered.package.name == PROJECT["name"]
    script = rendered.to_dict()["build"]["script"]
    assert script["env"]["SETUPTOOLS_SCM_PRETEND_VERSION"] == str(rendered.package.version)
    needed = {r.name: str(r.specifier) for r in map(Requirement, BUILD_SYSTEM["requires"])}
    host = [line for line in rendered.requirements.host if line.split()[0] in needed]
    assert matched(host) == needed
    assert matched(rendered.requirements.run) == {"python": PYTHON, **conda(requirements())}
    entry_points = recipe.to_dict()["build"]["python"]["entry_points"]
    assert entry_points == [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]


def test_every_dependency_says_why():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    listed = [(i, line) for i, line in enumerate(lines) if re.match(r'\s+"[a-z0-9-]+[><=~!]=?[^"]*",', line, re.I)]
    extras = PROJECT["optional-dependencies"].values()
    assert len(listed) == len(PROJECT["dependencies"]) + sum(map(len, extras)), "one dependency a line, with a bound"
    for position, line in listed:
        assert re.search(r"#\s*\w+\W+\w+", lines[position - 1] + line.partition(",")[2]), (
            f"{line.strip()} lacks a reason"
        )


def test_torch_is_never_held_at_the_version_without_torchvision():
    assert requirements()["torch"].startswith(">=")
    assert not re.search(r"<|==|~", requirements()["torch"])


def test_constraints_hold_a_fitting_version_of_every_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    listed = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(r.name): re.fullmatch(r"==([\w.]+)", str(r.specifier)) for r in listed}
    assert len(versions) == len(listed) and all(versions.values()) and not any(r.url for r in listed)
    assert not [name for name in versions if name.startswith(("nvidia-", "cuda-"))], "of one kind of machine"
    for name, bound in {**requirements(), **requirements("dev")}.items():
        assert versions[name][1] in SpecifierSet(bound), f"{name} {versions[name][1]}: write constraints.txt anew"
    assert versions["torch"][1] != "2.13.0"


@pytest.mark.parametrize(("folder", "extras"), [("rsdistill", ["offline"]), ("tests", ["offline", "dev"])])
def test_every_import_is_declared(folder, extras):
    declared = set(requirements()) | set(requirements(*extras))
    # pytest's own dependency reads the lists above; qgis belongs to the system's Python, which runs it.
    declared |= {"packaging", "qgis"} if folder == "tests" else set()
    providers = metadata.packages_distributions()
    own = {"rsdistill", "helpers", *(path.stem for path in sources("tests"))}
    undeclared = {}
    for path in sources(folder):
        for name in imported(path) - own - sys.stdlib_module_names:
            if not {canonicalize_name(d) for d in providers.get(name, [name])} & declared:
                undeclared.setdefault(name, path.relative_to(ROOT).as_posix())
    assert not undeclared, f"add to pyproject.toml, environment.yml and recipe/recipe.yaml: {undeclared}"


def imported(path):
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names
