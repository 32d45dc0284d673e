"""Tiles, index and folder as a whole."""

import json

import geopandas
import numpy as np
import rasterio
from export_samples import make_set

from rsdistill.export import export_tiles


def test_folder_holds_every_tile_with_its_pixels_and_place(tmp_path):
    tiles = make_set(6)
    folder = export_tiles(tiles, tmp_path / "set", progress=False)
    frame = geopandas.read_file(folder / "index.gpkg", layer="tiles")
    assert len(frame) == 6
    for position, row in frame.iterrows():
        with rasterio.open(folder / row.path) as source:
            np.testing.assert_array_equal(source.read(), tiles.image[position])
            assert source.descriptions == tiles.bands.names
            assert tuple(source.bounds) == tuple(row.geometry.bounds)
            document = json.loads(source.tags()["RSDISTILL"])
        assert document["class"]["key"] == row.class_key
        assert document["caption"] == tiles.caption[position]
