"""Where tiles are drawn."""

import geopandas
import numpy as np
import pytest
import rasterio
from helpers.export_samples import make_set
from pyproj.exceptions import CRSError, ProjError

from rsdistill.errors import ExportError
from rsdistill.export import GeoRef, Place, export_tiles, validate_folder
from rsdistill.utils.provenance import REAL


def frame_of(folder):
    return geopandas.read_file(folder / "index.gpkg", layer="tiles")


def test_default_grid_is_no_place_on_earth(tmp_path):
    folder = export_tiles(make_set(6), tmp_path / "out", progress=False)
    frame = frame_of(folder)
    assert frame.crs.is_engineering
    assert "not a place on Earth" in frame.crs.name
    with pytest.raises((CRSError, ProjError)):
        frame.to_crs(4326)


def test_grid_has_a_row_a_class_and_gaps(tmp_path):
    folder = export_tiles(make_set(6), tmp_path / "out", progress=False)
    frame = frame_of(folder)
    tops = frame.geometry.bounds["maxy"]
    assert frame.groupby("label")["geometry"].apply(lambda g: g.bounds["maxy"].nunique()).tolist() == [1, 1]
    assert tops[frame["label"] == 0].max() > tops[frame["label"] == 1].max()
    for position, one in enumerate(frame.geometry):
        assert frame.geometry.drop(position).distance(one).min() == pytest.approx(0.125 * 32 * 10)


def test_gsd_can_be_overridden(tmp_path):
    folder = export_tiles(make_set(1), tmp_path / "out", georef=GeoRef(gsd=2.5), progress=False)
    with rasterio.open(next(folder.rglob("*.tif"))) as source:
        assert source.res == (2.5, 2.5)


def test_an_anchor_draws_the_grid_in_a_projected_crs(tmp_path):
    georef = GeoRef(epsg=32632, origin=(500_000, 5_000_000))
    folder = export_tiles(make_set(4), tmp_path / "out", georef=georef, progress=False)
    frame = frame_of(folder)
    assert frame.crs.to_epsg() == 32632
    assert frame.total_bounds[0] == 500_000
    assert frame.total_bounds[3] == 5_000_000
    assert "it does not show" in " ".join((folder / "README.txt").read_text().split())
    assert validate_folder(folder) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epsg": 4326}, "not a projected CRS in metres"),
        ({"epsg": 2225}, "not a projected CRS in metres"),
        ({"epsg": 999999}, "unknown"),
        ({"epsg": 32632, "origin": (5_000_000, 5_000_000)}, "leaves the area"),
        ({"epsg": 32632}, "leaves the area"),
        ({"gsd": 0}, "gsd"),
        ({"gsd": float("nan")}, "gsd"),
        ({"gap": -1}, "gap"),
        ({"origin": (float("inf"), 0)}, "origin"),
    ],
)
def test_unsuitable_layouts_are_refused(tmp_path, options, said):
    with pytest.raises(ExportError, match=said):
        export_tiles(make_set(1), tmp_path / "out", georef=GeoRef(**options), progress=False)
    assert not list(tmp_path.iterdir())


PLACES = [Place("EPSG:32632", (10, 0, 500_000 + 1000 * n, 0, -10, 5_000_000)) for n in range(4)]


def test_generated_tiles_never_get_real_places(tmp_path):
    with pytest.raises(ExportError, match="never get real coordinates"):
        export_tiles(make_set(4), tmp_path / "out", georef=GeoRef(places=PLACES), progress=False)


def test_real_chips_keep_their_places_on_request_only(tmp_path):
    tiles = make_set(4, digital_source_type=REAL)
    plain = export_tiles(tiles, tmp_path / "plain", progress=False)
    assert frame_of(plain).crs.is_engineering
    placed = export_tiles(tiles, tmp_path / "placed", georef=GeoRef(places=PLACES), progress=False)
    with rasterio.open(placed / "tiles/river/river_001.tif") as source:
        assert source.crs.to_epsg() == 32632
        assert source.transform.c == 502_000
    assert '"georeferencing": "real"' in (placed / "manifest.json").read_text()
    assert validate_folder(placed) == []


def test_real_places_in_several_zones_share_an_index_in_degrees(tmp_path):
    places = [*PLACES[:3], Place("EPSG:32633", PLACES[3].transform)]
    tiles = make_set(4, digital_source_type=REAL)
    folder = export_tiles(tiles, tmp_path / "out", georef=GeoRef(places=places), progress=False)
    frame = frame_of(folder)
    assert frame.crs.to_epsg() == 4326
    np.testing.assert_allclose(frame.geometry.bounds["minx"].iloc[[0, 3]], [9.0, 15.038], atol=0.01)
    assert not (folder / "mosaics").exists()
    assert validate_folder(folder) == []
    with pytest.raises(ExportError, match="3 places do not fit 4"):
        export_tiles(tiles, tmp_path / "few", georef=GeoRef(places=PLACES[:3]), progress=False)
    odd = [Place("nowhere", PLACES[0].transform)] * 4
    with pytest.raises(ExportError, match="'nowhere'"):
        export_tiles(tiles, tmp_path / "odd", georef=GeoRef(places=odd), progress=False)
