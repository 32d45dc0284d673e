"""One tile: valid everywhere, in the sensor's units, and telling what it is."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from helpers.export_samples import make_set
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from rsdistill.errors import ExportError
from rsdistill.export import export_tiles, validate_folder
from rsdistill.export.encoding import Encoding, choose_encoding
from rsdistill.export.geotiff import has_alpha
from rsdistill.export.metadata import NON_COMMERCIAL_NOTICE, is_non_commercial
from rsdistill.utils.provenance import REAL


def exported(tmp_path, tiles, **options):
    """Export and give the folder and the paths of its tiles."""
    folder = export_tiles(tiles, tmp_path / "out", progress=False, **options)
    return folder, sorted((folder / "tiles").rglob("*.tif"))


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13, 200])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiles_are_valid_cogs_without_alpha(tmp_path, bands, dtype):
    tiles = make_set(2, bands=bands, dtype=dtype, size=(24, 40))
    folder, paths = exported(tmp_path, tiles)
    for path, pixels in zip(paths, tiles.image[::-1], strict=True):
        assert cog_validate(path, quiet=True, strict=True) == (True, [], [])
        assert not has_alpha(path)
        with rasterio.open(path) as source:
            assert ColorInterp.alpha not in source.colorinterp
            assert source.descriptions == tiles.bands.names
            np.testing.assert_array_equal(source.read(), pixels)
    assert validate_folder(folder) == []


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (600, 600)])
def test_any_size_is_a_valid_cog(tmp_path, size):
    folder, paths = exported(tmp_path, make_set(1, size=size))
    assert cog_validate(paths[0], quiet=True, strict=True) == (True, [], [])
    assert validate_folder(folder) == []


def test_gdalinfo_shows_names_units_statistics_and_crs(tmp_path):
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not installed (apt-get install gdal-bin)")
    tiles = make_set(1)
    _, paths = exported(tmp_path, tiles)
    run = subprocess.run(["gdalinfo", "-json", paths[0]], capture_output=True, check=True)
    told = json.loads(run.stdout)
    assert [band["description"] for band in told["bands"]] == list(tiles.bands.names)
    assert {band["scale"] for band in told["bands"]} == {1e-4}
    assert {band["noDataValue"] for band in told["bands"]} == {0}
    mean = float(told["bands"][0]["metadata"][""]["STATISTICS_MEAN"])
    assert mean == pytest.approx(tiles.image[0, 0].mean())
    assert "not a place on Earth" in told["coordinateSystem"]["wkt"]
    assert "wgs84Extent" not in told or not told["wgs84Extent"].get("coordinates", [[]])[0]


def test_a_tile_tells_class_caption_provenance_and_source_type(tmp_path):
    tiles = make_set(1)
    _, paths = exported(tmp_path, tiles)
    with rasterio.open(paths[0]) as source:
        document = json.loads(source.tags()["RSDISTILL"])
        packet = source.tags(ns="xml:XMP")["xml:XMP"]
        optics = source.tags(4, ns="IMAGERY")
        assert source.colorinterp[2] is ColorInterp.red
        assert source.colorinterp[3] is ColorInterp.nir
    assert document["class"] == {"key": "river", "name": "river", "sector": "water", "label": 0}
    assert document["caption"] == tiles.caption[0]
    assert document["provenance"] == tiles.manifest
    assert document["set"] == tiles.seal()
    assert packet.startswith("<?xpacket begin=")
    assert "trainedAlgorithmicMedia" in packet
    assert optics == {"CENTRAL_WAVELENGTH_UM": "0.842", "FWHM_UM": "0.11"}


def test_exiftool_reads_the_source_type(tmp_path):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed (apt-get install libimage-exiftool-perl)")
    _, paths = exported(tmp_path, make_set(1))
    run = subprocess.run(
        ["exiftool", "-s3", "-XMP-iptcExt:DigitalSourceType", paths[0]], capture_output=True, check=True
    )
    assert run.stdout.decode().strip().endswith("/trainedAlgorithmicMedia")


def test_real_chips_say_so_and_carry_the_licence(tmp_path):
    tiles = make_set(1, digital_source_type=REAL, method="random")
    folder, paths = exported(tmp_path, tiles)
    with rasterio.open(paths[0]) as source:
        assert "digitalCapture" in source.tags(ns="xml:XMP")["xml:XMP"]
        assert "CC0-1.0" in source.tags()["TIFFTAG_COPYRIGHT"]
        assert "Real image" in source.tags()["TIFFTAG_IMAGEDESCRIPTION"]
    assert not (folder / "stac/generator.json").exists()
    assert validate_folder(folder) == []


def test_non_commercial_terms_are_told_in_every_tile_and_in_the_readme(tmp_path):
    licence = "for non-commercial research only"
    folder, paths = exported(tmp_path, make_set(3, dataset={"name": "NWPU-RESISC45", "licence": licence}))
    for path in paths:
        with rasterio.open(path) as source:
            assert NON_COMMERCIAL_NOTICE in source.tags()["TIFFTAG_IMAGEDESCRIPTION"]
            assert NON_COMMERCIAL_NOTICE in json.loads(source.tags()["RSDISTILL"])["notices"]
    assert NON_COMMERCIAL_NOTICE in " ".join((folder / "README.txt").read_text().split())


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("CC-BY-NC-4.0", True), ("cc by-nc-sa", True), ("Non commercial use", True), ("CC-BY-4.0", False),
     ("public domain since 1990", False), ("MIT, ncsa.edu", False)],
)  # fmt: skip
def test_non_commercial_licences_are_known_by_their_words(licence, expected):
    assert is_non_commercial(licence) is expected


def test_gaps_and_infinities(tmp_path):
    tiles = make_set(2, dtype="float32")
    tiles.image[0, :, :5] = np.nan
    tiles.image[1, 3] = np.nan
    folder, paths = exported(tmp_path, tiles)
    with rasterio.open(paths[1]) as source:
        assert np.isnan(source.nodata)
        np.testing.assert_array_equal(source.read(), tiles.image[0])
        assert float(source.tags(1)["STATISTICS_VALID_PERCENT"]) == pytest.approx(100 * 27 / 32)
    assert validate_folder(folder) == []
    tiles.image[0, 0, 0, 0] = np.inf
    with pytest.raises(ExportError, match="river_000 holds infinite"):
        export_tiles(tiles, tmp_path / "infinite", progress=False)
    tiles.image[0] = np.nan
    with pytest.raises(ExportError, match="river_000 has no valid pixel"):
        export_tiles(tiles, tmp_path / "empty", progress=False)
    assert not list(tmp_path.glob("*infinite*"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_requantised_values_keep_their_physical_meaning(tmp_path, dtype):
    tiles = make_set(1, dtype="float32")
    _, paths = exported(tmp_path, tiles, dtype=dtype)
    with rasterio.open(paths[0]) as source:
        assert source.dtypes[0] == dtype
        physical = source.read() * source.scales[0] + source.offsets[0]
    assert np.abs(physical - tiles.image[0]).max() <= source.scales[0] * 0.51


@pytest.mark.parametrize("source", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("target", ["uint8", "uint16", "float32"])
def test_encodings_survive_json_and_invert(source, target):
    tiles = make_set(1, dtype=source)
    encoding = choose_encoding(tiles.bands, target)
    again = Encoding.from_dict(json.loads(json.dumps(encoding.to_dict(), allow_nan=False)))
    assert again.to_dict() == encoding.to_dict()
    values = encoding.decode(encoding.encode(tiles.image))
    assert np.abs(values.astype(float) - tiles.image).max() <= encoding.step * 0.51 * (encoding.limits is not None)


def test_unknown_types_are_refused(tmp_path):
    with pytest.raises(ExportError, match="dtype 'int64'"):
        export_tiles(make_set(1), tmp_path / "out", dtype="int64", progress=False)


@pytest.mark.real_data
def test_eurosat_chips_become_valid_tiles(tmp_path):
    if "RSDISTILL_TEST_DATA" not in os.environ:
        pytest.skip("RSDISTILL_TEST_DATA is not set")
    from rsdistill.bands import get_bands
    from rsdistill.classes import ClassInfo
    from rsdistill.distilled import DistilledSet

    paths = sorted(Path(os.environ["RSDISTILL_TEST_DATA"], "eurosat_ms").rglob("*.tif"))[::9]
    keys = sorted({path.parent.name for path in paths})
    order = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"]
    images = []
    for path in paths:
        with rasterio.open(path) as source:
            images.append(source.read())
    labels = np.array([keys.index(path.parent.name) for path in paths])
    manifest = {"method": "random", "digital_source_type": REAL, "dataset": {"name": "EuroSAT", "licence": "MIT"}}
    bands = get_bands("sentinel2", order)
    tiles = DistilledSet(np.stack(images), labels, tuple(map(ClassInfo, keys, keys)), bands, 10.0, manifest)
    folder, written = exported(tmp_path, tiles)
    assert len(written) == len(paths)
    for path in written:
        assert cog_validate(path, quiet=True, strict=True) == (True, [], [])
        with rasterio.open(path) as source:
            assert source.dtypes[0] == "uint16"
            assert source.descriptions == tuple(order)
    assert validate_folder(folder) == []
