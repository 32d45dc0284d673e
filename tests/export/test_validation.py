"""Faults planted one by one in a good folder: each is found and named, and nothing is written."""

import json
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing

import numpy as np
import pytest
import rasterio
from helpers.export_samples import make_set
from rasterio.enums import ColorInterp

from rsdistill.errors import ArtifactError
from rsdistill.export import export_tiles, validate_folder
from rsdistill.utils.provenance import file_digest

TILE = "tiles/river/river_000.tif"
ITEM = "stac/items/river/river_000.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder without fault, of data under a non-commercial licence."""
    dataset = {"name": "Scenes", "licence": "CC-BY-NC-4.0", "citation": "Nobody (2026)."}
    tiles = make_set(4, dataset=dataset)
    return export_tiles(tiles, tmp_path_factory.mktemp("good") / "tiles of Zürich", progress=False, geoparquet=True)


@pytest.fixture
def folder(good, tmp_path):
    """A copy to spoil, which also is a folder that was moved."""
    return shutil.copytree(good, tmp_path / "moved")


def rewrite(folder, **changes):
    """Write a tile anew as another program would, with some of what it says changed; fix up its checksum."""
    path = folder / TILE
    with rasterio.open(path) as source:
        profile = {**source.profile, "driver": "COG", "blocksize": 32, **changes.pop("profile", {})}
        said = {
            "pixels": source.read(),
            "descriptions": source.descriptions,
            "scales": source.scales,
            "offsets": source.offsets,
            "colorinterp": source.colorinterp,
            "tags": source.tags(),
            "xmp": source.tags(ns="xml:XMP")["xml:XMP"],
            "bands": [source.tags(n) for n in source.indexes],
            "optics": [source.tags(n, ns="IMAGERY") for n in source.indexes],
            **changes,
        }
    for key in ("tiled", "blockxsize", "blockysize", "interleave"):
        profile.pop(key, None)
    with rasterio.open(path, "w", **profile) as target:
        target.write(said["pixels"])
        target.descriptions, target.scales, target.offsets = said["descriptions"], said["scales"], said["offsets"]
        target.colorinterp = said["colorinterp"]
        target.update_tags(**said["tags"])
        if said["xmp"]:
            key, value = said["xmp"].split("=", 1)
            target.update_tags(ns="xml:XMP", **{key: value})
        for number, (tags, optics) in enumerate(zip(said["bands"], said["optics"], strict=True), start=1):
            target.update_tags(number, **tags)
            target.update_tags(number, ns="IMAGERY", **optics)


def edit_json(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_index(folder, *statements):
    with closing(sqlite3.connect(folder / "index.gpkg")) as database, database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{name}"')
        for statement in statements:
            database.execute(statement)


def edit_project(folder, old, new):
    path = folder / "project.qgz"
    with zipfile.ZipFile(path) as archive:
        text = archive.read("project.qgs").decode()
    assert old in text
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.qgs", text.replace(old, new))


def edit_text(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def flip_a_byte(folder):
    content = bytearray((folder / TILE).read_bytes())
    content[-1] ^= 1
    (folder / TILE).write_bytes(content)


def drop_a_band(folder):
    with rasterio.open(folder / TILE) as source:
        pixels = source.read()[:3]
    rewrite(folder, pixels=pixels, profile={"count": 3}, descriptions=("blue", "green", "red"), scales=(1e-4,) * 3,
            offsets=(0.0,) * 3, colorinterp=(ColorInterp.blue, ColorInterp.green, ColorInterp.red),
            bands=[{}] * 3, optics=[{}] * 3)  # fmt: skip


def spoil_provenance(folder):
    with rasterio.open(folder / TILE) as source:
        tags = source.tags()
    document = json.loads(tags["RSDISTILL"])
    document["provenance"]["seed"] = 8
    rewrite(folder, tags={**tags, "RSDISTILL": json.dumps(document)})


def hide_licence_terms(folder):
    with rasterio.open(folder / TILE) as source:
        tags = source.tags()
    rewrite(folder, tags={**tags, "TIFFTAG_IMAGEDESCRIPTION": "river"})


NIR_AS_ALPHA = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.alpha)

FAULTS = {
    "wrong checksum": (flip_a_byte, TILE, "checksum"),
    "missing tile": (lambda f: (f / TILE).unlink(), TILE, "is missing"),
    "extra tile": (lambda f: shutil.copy(f / TILE, f / "tiles/river/mine.tif"), "tiles/river/mine.tif", "extra tile"),
    "wrong CRS": (lambda f: rewrite(f, profile={"crs": "EPSG:32632"}), TILE, "CRS is"),
    "moved": (
        lambda f: rewrite(f, profile={"transform": rasterio.Affine(10, 0, 5, 0, -10, 0)}),
        TILE,
        "lies elsewhere",
    ),
    "lost band name": (lambda f: rewrite(f, descriptions=("blue", "green", "red", None)), TILE, "band names"),
    "near infrared as alpha": (lambda f: rewrite(f, colorinterp=NIR_AS_ALPHA), TILE, "alpha"),
    "missing band": (drop_a_band, TILE, "has 3 band"),
    "lost wavelength": (lambda f: rewrite(f, optics=[{}] * 4), TILE, "wavelength"),
    "lost scale": (lambda f: rewrite(f, scales=(1.0,) * 4), TILE, "scale"),
    "wrong nodata": (lambda f: rewrite(f, profile={"nodata": 7}), TILE, "nodata"),
    "changed pixels": (lambda f: rewrite(f, pixels=np.full((4, 32, 32), 5, "uint16")), TILE, "pixels differ"),
    "lost statistics": (lambda f: rewrite(f, bands=[{}] * 4), TILE, "statistics"),
    "edited provenance": (spoil_provenance, TILE, "provenance differs"),
    "lost licence terms": (hide_licence_terms, TILE, "non-commercial"),
    "lost source type": (lambda f: rewrite(f, xmp=""), TILE, "XMP"),
    "no style": (lambda f: (f / TILE).with_suffix(".qml").unlink(), TILE.replace(".tif", ".qml"), "is missing"),
    "edited manifest": (
        lambda f: edit_json(f / "manifest.json", lambda m: m.update(created="2001")),
        "manifest.json",
        "altered",
    ),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json", "no manifest.json"),
    "row lost": (lambda f: edit_index(f, "DELETE FROM tiles WHERE fid = 1"), "index.gpkg", "does not list"),
    "absolute path in the index": (
        lambda f: edit_index(f, "UPDATE tiles SET path = 'C:\\tiles\\a.tif' WHERE fid = 1"),
        "index.gpkg",
        "not relative",
    ),
    "class edited in the index": (
        lambda f: edit_index(f, "UPDATE tiles SET class_key = 'lake' WHERE fid = 1"),
        "index.gpkg",
        "class_key",
    ),
    "style lost from the index": (lambda f: edit_index(f, "DELETE FROM layer_styles"), "index.gpkg", "style"),
    "absolute path in the project": (
        lambda f: edit_project(f, "./mosaics/river.vrt", "/home/me/mosaics/river.vrt"),
        "project.qgz",
        "absolute path",
    ),
    "damaged project": (lambda f: (f / "project.qgz").write_bytes(b"no"), "project.qgz", "cannot be read"),
    "absolute path in a mosaic": (
        lambda f: edit_text(f / "mosaics/river.vrt", "../tiles/river/river_000.tif", "/tiles/river_000.tif"),
        "mosaics/river.vrt",
        "absolute path",
    ),
    "missing mosaic": (lambda f: (f / "mosaics/all-tiles.vrt").unlink(), "mosaics/all-tiles.vrt", "is missing"),
    "corrupted checksum in the catalog": (
        lambda f: edit_json(f / ITEM, lambda i: i["assets"]["image"].update({"file:checksum": "1220" + "0" * 64})),
        ITEM,
        "checksum",
    ),
    "malformed checksum in the catalog": (
        lambda f: edit_json(f / ITEM, lambda i: i["assets"]["image"].update({"file:checksum": "1220ff"})),
        ITEM,
        "not valid",
    ),
    "missing band in the catalog": (
        lambda f: edit_json(f / ITEM, lambda i: i["assets"]["image"]["bands"].pop()),
        ITEM,
        "bands are",
    ),
    "broken link": (
        lambda f: edit_json(f / ITEM, lambda i: i["links"][0].update(href="../../nowhere.json")),
        ITEM,
        "leads nowhere",
    ),
    "edited readme": (lambda f: edit_text(f / "README.txt", "NON-COMMERCIAL", "any"), "README.txt", "non-commercial"),
    "left over": (lambda f: (f / "tiles/river/.partial-x.tif").touch(), "tiles/river/.partial-x.tif", "cut off"),
}


def test_a_good_folder_has_no_fault_and_stays_as_it_is(good):
    before = {path: file_digest(path) for path in good.rglob("*") if path.is_file()}
    assert validate_folder(good) == []
    assert {path: file_digest(path) for path in good.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_found_and_named(folder, name):
    plant, file, said = FAULTS[name]
    plant(folder)
    found = [str(fault) for fault in validate_folder(folder) if fault.file == file]
    assert any(said in fault for fault in found), found


def test_sidecars_of_other_programs_are_no_fault(folder):
    (folder / TILE).with_suffix(".tif.aux.xml").write_text("<PAMDataset/>")
    assert validate_folder(folder) == []


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="is not a folder"):
        validate_folder(tmp_path / "none")


def test_export_and_validation_load_no_torch(folder):
    code = (
        "import sys; import rsdistill.export as e; assert 'torch' not in sys.modules and 'rasterio' not in sys.modules;"
        f"assert e.validate_folder({str(folder)!r}) == []; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
