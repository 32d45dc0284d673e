"""Further formats of an export: built in, of one's own, and what one must not do."""

from __future__ import annotations

import json

import geopandas
import pytest
from helpers.export_samples import make_set

from rsdistill.errors import ExportError, UnknownNameError
from rsdistill.export import EXPORT_FORMATS, export_tiles, validate_folder


@pytest.fixture
def registered():
    """Formats of one's own, forgotten afterwards."""
    before = dict(EXPORT_FORMATS._entries)

    @EXPORT_FORMATS.register("captions", summary="captions as JSON")
    def captions(tiles, folder):
        path = folder / "extra" / "captions.json"
        path.parent.mkdir()
        path.write_text(json.dumps(list(tiles.caption)))
        return [path]

    EXPORT_FORMATS.register("absent", summary="writes nothing")(lambda tiles, folder: [folder / "nowhere.txt"])
    EXPORT_FORMATS.register("outside", summary="writes elsewhere")(lambda tiles, folder: [folder.parent / "other"])
    EXPORT_FORMATS.register("greedy", summary="takes a file")(lambda tiles, folder: [folder / "README.txt"])
    yield
    EXPORT_FORMATS._entries = before


def test_files_of_a_format_are_listed_and_checked(registered, tmp_path):
    tiles = make_set(4)
    folder = export_tiles(tiles, tmp_path / "set", formats=("captions",), progress=False)
    assert json.loads((folder / "extra" / "captions.json").read_text()) == list(tiles.caption)
    assert "extra/captions.json" in json.loads((folder / "manifest.json").read_text())["files"]
    assert validate_folder(folder) == []
    (folder / "extra" / "captions.json").write_text("[]")
    assert [fault.file for fault in validate_folder(folder)] == ["extra/captions.json"]


@pytest.mark.parametrize("options", [{"geoparquet": True}, {"formats": ("geoparquet", "geoparquet")}])
def test_geoparquet_says_the_same_as_the_index(tmp_path, options):
    folder = export_tiles(make_set(4), tmp_path / "set", progress=False, **options)
    parquet = geopandas.read_parquet(folder / "index.parquet")
    index = geopandas.read_file(folder / "index.gpkg", layer="tiles")
    assert list(parquet["path"]) == list(index["path"])
    assert parquet.geometry.geom_equals(index.geometry).all() and parquet.crs == index.crs
    assert validate_folder(folder) == []
    (folder / "index.parquet").unlink()
    assert [fault.file for fault in validate_folder(folder)] == ["index.parquet"]


@pytest.mark.parametrize("name", ["absent", "outside", "greedy"])
def test_a_format_that_misbehaves_leaves_nothing_behind(registered, tmp_path, name):
    (tmp_path / "other").write_text("")
    with pytest.raises(ExportError, match=f"export format '{name}'"):
        export_tiles(make_set(2), tmp_path / "set", formats=(name,), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'geoparquet'"):
        export_tiles(make_set(2), tmp_path / "set", formats=("geoparket",), progress=False)
    assert not list(tmp_path.iterdir())
