"""The folder as a whole: complete or absent, resumable, in parallel, movable, with names that fit anywhere."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
import rasterio
from helpers.export_samples import make_set
from pystac.validation import RegisteredValidator, set_validator

from rsdistill.classes import ClassInfo
from rsdistill.errors import ExportError, OptionError, StorageError
from rsdistill.export import export_tiles, validate_folder, writer
from rsdistill.export.metadata import file_safe_names
from rsdistill.export.stac_schemas import offline_validator
from rsdistill.utils.provenance import file_digest


def contents(folder):
    """Digest of each tile by its path."""
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in folder.rglob("*.tif")}


def test_folder_holds_every_tile_with_its_pixels_and_place(tmp_path):
    tiles = make_set(6)
    folder = export_tiles(tiles, tmp_path / "set", progress=False)
    frame = geopandas.read_file(folder / "index.gpkg", layer="tiles")
    assert len(frame) == 6
    for position, row in frame.iterrows():
        with rasterio.open(folder / row.path) as source:
            np.testing.assert_array_equal(source.read(), tiles.image[position])
            assert tuple(source.bounds) == tuple(row.geometry.bounds)
            document = json.loads(source.tags()["RSDISTILL"])
        assert (row.class_key, row.slot, row.seed) == (document["class"]["key"], document["slot"], 7)
        assert row.caption == tiles.caption[position]
        assert row.score == pytest.approx(tiles.score[position])
        assert row.verdict is None


def test_mosaics_show_every_tile_in_its_place(tmp_path):
    tiles = make_set(6)
    folder = export_tiles(tiles, tmp_path / "set", progress=False)
    with rasterio.open(folder / "mosaics/all-tiles.vrt") as source:
        mosaic = source.read()
        assert source.nodata == 0
    assert mosaic.shape == (4, 36 + 32, 2 * 36 + 32)
    for position in range(6):
        y, x = 36 * tiles.label[position], 36 * tiles.slots[position]
        np.testing.assert_array_equal(mosaic[:, y : y + 32, x : x + 32], tiles.image[position])
    assert (mosaic[:, 32:36] == 0).all()


def test_mosaic_of_tiles_without_nodata_masks_the_gaps(tmp_path):
    folder = export_tiles(make_set(2, bands=3, dtype="uint8"), tmp_path / "set", progress=False)
    with rasterio.open(folder / "mosaics/all-tiles.vrt") as source:
        mask = source.dataset_mask()
    assert (mask[:32] == 255).all()
    assert (mask[32:36] == 0).all()


def test_catalog_is_valid_by_pystac_and_every_extension_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(pystac.StacIO.default(), "read_text_from_href", None, raising=False)
    folder = export_tiles(make_set(3), tmp_path / "set", progress=False)
    before = RegisteredValidator.get_validator()
    set_validator(offline_validator())
    try:
        catalog = pystac.Catalog.from_file(str(folder / "stac/catalog.json"))
        assert catalog.validate_all() == 4
    finally:
        set_validator(before)
    items = {item.id: item for item in catalog.get_items(recursive=True)}
    assert set(items) - {"river_000", "river_001", "Dunen-Wald_000"} == {f"{next(catalog.get_children()).id}-generator"}
    image = items["river_000"].assets["image"]
    assert Path(image.get_absolute_href()).samefile(folder / "tiles/river/river_000.tif")
    assert image.extra_fields["file:checksum"] == "1220" + file_digest(folder / "tiles/river/river_000.tif")


def test_workers_write_the_same_bytes(tmp_path):
    tiles = make_set(9, size=(64, 64))
    one = export_tiles(tiles, tmp_path / "one", progress=False)
    two = export_tiles(tiles, tmp_path / "two", workers=2, progress=False)
    assert contents(one) == contents(two)
    assert validate_folder(two) == []
    with pytest.raises(OptionError, match="workers is 0"):
        export_tiles(tiles, tmp_path / "none", workers=0)


def test_an_existing_folder_is_refused_unless_told(tmp_path):
    folder = export_tiles(make_set(2), tmp_path / "set", progress=False)
    before = contents(folder)
    other = make_set(4, seed=1)
    with pytest.raises(StorageError, match="exists"):
        export_tiles(other, folder, progress=False)
    with pytest.raises(StorageError, match="another export"):
        export_tiles(other, folder, resume=True, progress=False)
    assert contents(folder) == before
    export_tiles(other, folder, overwrite=True, progress=False)
    assert len(contents(folder)) == 4
    assert validate_folder(folder) == []
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_only_exported_folders_are_overwritten(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="not an exported folder"):
        export_tiles(make_set(1), mine, overwrite=True, progress=False)
    assert (mine / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file"):
        export_tiles(make_set(1), tmp_path / "file", overwrite=True, progress=False)


def test_resume_of_a_complete_folder_changes_nothing(tmp_path):
    folder = export_tiles(make_set(2), tmp_path / "set", progress=False)
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert export_tiles(make_set(2), folder, resume=True, progress=False) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp


KILLED = """
import sys; sys.path.insert(0, sys.argv[2])
from helpers.export_samples import make_set
from rsdistill.export import export_tiles
export_tiles(make_set(150, size=(64, 64)), sys.argv[1], progress=False)
"""


def test_a_killed_export_is_resumed_to_the_same_tiles(tmp_path):
    target, staging = tmp_path / "set", tmp_path / ".set.partial"
    with subprocess.Popen([sys.executable, "-c", KILLED, target, Path(__file__).parents[1]]) as process:
        while len(list(staging.rglob("*.tif"))) < 10 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert not target.exists() and 10 <= len(list(staging.rglob("*.tif"))) < 450
    kept = {path.name: path.stat().st_mtime_ns for path in staging.rglob("river_*.tif")}
    (staging / "tiles/river/.partial-river_000.tif").touch()
    tiles = make_set(150, size=(64, 64))
    export_tiles(tiles, target, resume=True, progress=False)
    assert not staging.exists()
    assert validate_folder(target) == []
    now = {path.name: path.stat().st_mtime_ns for path in target.rglob("river_*.tif")}
    assert kept.items() <= now.items()
    assert contents(target) == contents(export_tiles(tiles, tmp_path / "undisturbed", progress=False))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "write_item", full)
    with pytest.raises(StorageError, match="disk is full"):
        export_tiles(make_set(2), tmp_path / "set", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX")
def test_a_tile_that_gdal_cannot_write_is_an_error_and_leaves_nothing(tmp_path):
    code = """
import resource, sys; sys.path.insert(0, sys.argv[2])
from helpers.export_samples import make_set
from rsdistill.errors import RsdistillError
from rsdistill.export import export_tiles
tiles = make_set(1, size=(256, 256))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    export_tiles(tiles, sys.argv[1], progress=False)
except (RsdistillError, OSError) as error:
    print(error)
"""
    command = [sys.executable, "-c", code, tmp_path / "set", Path(__file__).parents[1]]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "set" in run.stdout or "large" in run.stdout
    assert not list(tmp_path.iterdir())


def test_a_folder_moved_and_zipped_has_no_fault(tmp_path):
    folder = export_tiles(make_set(2), tmp_path / "first", progress=False)
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    shutil.unpack_archive(archive, tmp_path / "zweite Kopie – ü")
    assert validate_folder(tmp_path / "zweite Kopie – ü") == []


def test_class_names_that_no_file_system_takes(tmp_path):
    keys = ["a/b", "a:b", "con", "CON", "...", "水", "Ångström", "x" * 300, "all-tiles", " "]
    names = file_safe_names(keys)
    assert len({name.lower() for name in names}) == len(keys)
    assert all(name.isascii() and name.replace("-", "").replace("_", "").isalnum() for name in names)
    assert names[:2] == ["a-b", "a-b-2"]
    tiles = make_set(len(keys), classes=tuple(ClassInfo(key, key) for key in keys), size=(8, 8))
    folder = export_tiles(tiles, tmp_path / "out", progress=False)
    assert validate_folder(folder) == []
    assert sorted(geopandas.read_file(folder / "index.gpkg")["class_key"]) == sorted(keys)


def test_a_class_name_that_xml_cannot_hold_is_refused(tmp_path):
    classes = (ClassInfo("bell", "bell \x07"), ClassInfo("river", "river"))
    with pytest.raises(ExportError, match="a class or dataset has a name that XML cannot hold"):
        export_tiles(make_set(2, classes=classes), tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())
