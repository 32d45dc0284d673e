"""One config, several band sets: only ``data.bands`` differs between runs on 13 bands and on three."""

from __future__ import annotations

from dataclasses import replace

import pytest
import rasterio
import yaml
from helpers.miniature import CONFIGS, synthetic

from rsdistill.bands import get_bands
from rsdistill.cli.main import main
from rsdistill.distilled import DistilledSet
from rsdistill.pipeline.config import load_config

QUICKSTART = str(CONFIGS / "quickstart.yaml")


@pytest.mark.parametrize("bands", ["rgb", "sentinel2", "[B04, B8A, B11]", "[red, nir]"])
def test_bands_alone_tell_two_configs_apart(bands, tmp_path):
    plain = load_config(QUICKSTART, synthetic(tmp_path))
    other = load_config(QUICKSTART, [*synthetic(tmp_path), "--data.bands", bands])
    assert other != plain and replace(other, data=replace(other.data, bands=plain.data.bands)) == plain


@pytest.mark.slow
@pytest.mark.parametrize("sensor", ["sentinel2", "rgb"])
def test_a_whole_run_differs_by_its_bands_alone(sensor, tmp_path):
    assert main(["run", QUICKSTART, *synthetic(tmp_path, data__bands=sensor)]) == 0
    run, bands = tmp_path / "quickstart", get_bands(sensor)
    used = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert used["data"]["bands"] == sensor
    assert DistilledSet.load(next(run.glob("*_distill")) / "distilled.nc").bands == bands
    tiles = sorted(run.glob("*_export/tiles/**/*.tif"))
    assert len(tiles) == 2 * 3
    for tile in tiles:
        with rasterio.open(tile) as opened:
            assert opened.descriptions == bands.names and opened.dtypes[0] == bands.dtype
    page = (run / "report.html").read_text(encoding="utf-8")
    for words in ("False colour", "NDVI by class", "Correlation and distance of the mean spectra"):
        assert (words in page) == (sensor == "sentinel2")
