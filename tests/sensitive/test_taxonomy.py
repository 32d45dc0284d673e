"""The taxonomy: complete for every known dataset, with sources and reasons."""

import os
import re
import tomllib
from pathlib import Path

import pytest

import rsdistill.sensitive
from rsdistill.datasets import DATASETS
from rsdistill.datasets.aid import AID
from rsdistill.datasets.synthetic import SYNTHETIC_CLASSES
from rsdistill.sensitive.taxonomy import NO_SECTOR, load_taxonomy

TAXONOMY = load_taxonomy()
KNOWN = sorted(set(DATASETS.names()) - {"folder"})
# The sixteen sectors as CISA lists them.
CISA = {
    "Chemical",
    "Commercial Facilities",
    "Communications",
    "Critical Manufacturing",
    "Dams",
    "Defense Industrial Base",
    "Emergency Services",
    "Energy",
    "Financial Services",
    "Food and Agriculture",
    "Government Services and Facilities",
    "Healthcare and Public Health",
    "Information Technology",
    "Nuclear Reactors, Materials, and Waste",
    "Transportation Systems",
    "Water and Wastewater Systems",
}
# torchgeo writes some of EuroSAT's classes otherwise than their folders.
FOLDERS = {"IndustrialBuildings": "Industrial", "ResidentialBuildings": "Residential", "Sea&Lake": "SeaLake"}


def documented(name):
    """Class keys as the dataset's own class documents them."""
    if name == "synthetic":
        return {info.key for info in SYNTHETIC_CLASSES}
    listed = AID if name == "aid" else DATASETS.get(name).factory.torchgeo_class()
    classes = listed.__doc__.split("Dataset classes:")[1].split("If you use")[0]
    keys = {key.strip().replace(" ", "") for key in re.findall(r"^\s+(?:\d+\.|\*) (\w[\w &]*)$", classes, re.MULTILINE)}
    return {FOLDERS.get(key, key) for key in keys}


@pytest.mark.parametrize("name", KNOWN)
def test_every_class_of_every_dataset_is_assigned(name):
    assert set(TAXONOMY.datasets[name]) == documented(name)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["aid", "eurosat", "ucmerced"])
def test_folders_of_real_data_are_the_assigned_ones(name, real_data_root):
    root = real_data_root / {"eurosat": "eurosat_ms"}.get(name, name)
    assert {info.key for info in DATASETS.get(name).factory.known_classes({"root": root})} == set(
        TAXONOMY.datasets[name]
    )


def test_sizes_are_those_of_the_papers():
    sizes = {name: len(classes) for name, classes in TAXONOMY.datasets.items()}
    assert sizes == {"synthetic": 10, "ucmerced": 21, "aid": 30, "resisc45": 45, "eurosat": 10}
    assert sorted(sizes) == KNOWN


def test_each_class_has_a_sector_that_exists_and_a_reason_of_a_few_words():
    for classes in TAXONOMY.datasets.values():
        for assigned in classes.values():
            assert assigned.sector in {*TAXONOMY.sectors, NO_SECTOR}
            assert 1 <= len(assigned.reason.split()) <= 10


def test_like_classes_of_different_datasets_share_a_sector():
    sectors = {}
    for classes in TAXONOMY.datasets.values():
        for key, assigned in classes.items():
            sectors.setdefault(key.lower().replace("_", "").rstrip("s"), set()).add(assigned.sector)
    assert {key: found for key, found in sectors.items() if len(found) > 1} == {}


def test_every_sector_of_cisa_has_a_counterpart_and_every_sector_a_source():
    assert {name for sector in TAXONOMY.sectors.values() for name in sector.counterparts} == CISA
    assert {sector.source for sector in TAXONOMY.sectors.values()} == set(TAXONOMY.sources)
    assert all(sector.counterparts for sector in TAXONOMY.sectors.values() if sector.source == "cisa")


def test_classes_get_their_sector_and_name():
    by_key = {info.key: info for info in SYNTHETIC_CLASSES}
    assert by_key["solar_farm"].sector == "energy"
    assert by_key["river"].sector is None
    assert by_key["centre_pivot_farmland"].name == "centre-pivot farmland"
    assert TAXONOMY.class_info("ucmerced", "storagetanks").name == "storage tanks"
    assert TAXONOMY.class_info("nowhere", "BigPort").name == "big port"


def test_file_lies_inside_the_package_that_is_built():
    """hatch takes every file of the package into the wheel, unless a rule says otherwise."""
    root = Path(rsdistill.sensitive.__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        pytest.skip("not a source tree")
    builds = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert builds["wheel"] == {"packages": ["rsdistill"]}
    assert os.path.exists(root / "rsdistill" / "sensitive" / "taxonomy.yaml")
