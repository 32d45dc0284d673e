"""Tiles that the audit blocked stay behind, are let through by name, and are told of in every place."""

import json
from dataclasses import replace

import geopandas
import numpy as np
import pytest
import rasterio
from helpers.export_samples import CLASSES, make_set

from rsdistill.errors import ExportError
from rsdistill.export import export_tiles, validate_folder
from rsdistill.export.release import BlockedTilesWarning
from rsdistill.utils.provenance import REAL

VERDICTS = ["pass", "block", "review", "pass", "pass", "block"]


def audited(verdicts=VERDICTS, **manifest):
    return replace(make_set(len(verdicts), **manifest), verdict=verdicts)


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_blocked_tiles_stay_behind_and_every_place_says_so(tmp_path):
    tiles = audited()
    with pytest.warns(BlockedTilesWarning, match="blocked 2 of 6 tiles"):
        folder = export_tiles(tiles, tmp_path / "tiles", progress=False)
    assert manifest_of(folder)["audit"] == {
        "blocked": 2, "of": 6, "left_out": 2, "let_through": 0, "emptied_classes": []
    }  # fmt: skip
    frame = geopandas.read_file(folder / "index.gpkg")
    assert frame["verdict"].tolist() == ["pass", "review", "pass", "pass"]
    assert "blocked 2 of 6 tiles" in " ".join((folder / "README.txt").read_text().split())
    written = sorted(folder.rglob("*.tif"))
    assert len(written) == 4
    kept = {tiles.image[position].tobytes() for position in (0, 2, 3, 4)}
    for path in written:
        with rasterio.open(path) as opened:
            assert np.asarray(opened.read(), tiles.image.dtype).tobytes() in kept
    assert validate_folder(folder) == []
    item = json.loads(next((folder / "stac").rglob("*river*/*.json")).read_text())
    assert item["properties"]["rsdistill:verdict"] in ("pass", "review")


def test_blocked_tiles_are_written_where_that_is_asked_for(tmp_path):
    with pytest.warns(BlockedTilesWarning, match="let through"):
        folder = export_tiles(audited(), tmp_path / "tiles", progress=False, allow_blocked=True)
    assert manifest_of(folder)["audit"]["let_through"] == 2 and len(list(folder.rglob("*.tif"))) == 6
    assert "let through" in " ".join((folder / "README.txt").read_text().split())


def test_class_that_lost_all_its_tiles_is_named(tmp_path):
    with pytest.warns(BlockedTilesWarning, match=f"No tile is left of: {CLASSES[1].key}"):
        folder = export_tiles(audited(["pass", "block"]), tmp_path / "tiles", progress=False)
    assert manifest_of(folder)["audit"]["emptied_classes"] == [CLASSES[1].key]


def test_nothing_is_written_where_all_are_blocked(tmp_path):
    with pytest.raises(ExportError, match=r"blocked all 2 tiles .* export\.allow_blocked"):
        export_tiles(audited(["block", "block"]), tmp_path / "tiles", progress=False)
    assert not list(tmp_path.iterdir())


def test_real_chips_are_written_with_their_verdicts(tmp_path):
    real = audited(["block", "block"], digital_source_type=REAL)
    with pytest.warns(BlockedTilesWarning, match="they are real images"):
        folder = export_tiles(real, tmp_path / "tiles", progress=False)
    assert geopandas.read_file(folder / "index.gpkg")["verdict"].tolist() == ["block", "block"]


@pytest.mark.filterwarnings("error")
def test_sets_without_blocked_tiles_are_told_nothing_of_it(tmp_path):
    folder = export_tiles(audited(["pass", "review"]), tmp_path / "tiles", progress=False)
    assert manifest_of(folder)["audit"]["blocked"] == 0
    assert "audit blocked" not in (folder / "README.txt").read_text()
