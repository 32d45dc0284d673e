"""A headless QGIS opens an exported folder that was moved, and draws what should be seen."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rsdistill.datasets.synthetic import SyntheticScenes
from rsdistill.distilled import DistilledSet
from rsdistill.export import export_tiles

SYSTEM_PYTHON = "/usr/bin/python3"
RENDER = Path(__file__).parents[1] / "helpers" / "qgis_render.py"
SIZE, TILES = 64, 3


def has_qgis():
    """Whether the system's Python has QGIS."""
    try:
        found = subprocess.run([SYSTEM_PYTHON, "-c", "import qgis.core"], capture_output=True, check=False, timeout=120)
    except OSError:
        return False
    return found.returncode == 0


pytestmark = pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed (apt-get install python3-qgis)")


@pytest.fixture(scope="module")
def scenes():
    """River and forest chips of SyntheticScenes, as a set."""
    source = SyntheticScenes(size=SIZE, chips_per_class=TILES, classes=["river", "forest"])
    images = np.stack([source.read(n) for n in range(len(source))])
    manifest = {"method": "random", "dataset": {"name": "SyntheticScenes", "licence": source.licence}}
    return DistilledSet(images, source.labels, source.classes, source.bands, source.gsd, manifest)


def water_and_leaves(image):
    """Masks of pixels that surely are water, and surely leaves, of an image (blue, green, red, nir)."""
    _, green, red, nir = image.astype(float)
    return green > 1.5 * nir, (nir - red) / (nir + red) > 0.7


def places(images, which, most=12):
    """Pixels of a kind as (slot, row, column), spread over the images of one class."""
    found = [(slot, y, x) for slot, image in enumerate(images) for y, x in np.argwhere(water_and_leaves(image)[which])]
    assert len(found) >= most
    return [found[n] for n in np.linspace(0, len(found) - 1, most).astype(int)]


def in_mosaic(place, row=0):
    """Fractions of the width and height of the mosaic of all tiles at which a pixel's centre lies."""
    slot, y, x = place
    pitch = SIZE * 9 // 8
    width, height = (TILES - 1) * pitch + SIZE, pitch + SIZE
    return [(slot * pitch + x + 0.5) / width, (row * pitch + y + 0.5) / height]


@pytest.fixture(scope="module")
def seen(scenes, tmp_path_factory):
    """What QGIS says of the folder after it was moved, and where the pictures are."""
    exported = export_tiles(scenes, tmp_path_factory.mktemp("made") / "tiles", progress=False)
    moved = tmp_path_factory.mktemp("moved") / "Karten für Zürich"
    shutil.move(exported, moved)
    rivers, forests = scenes.image[:TILES], scenes.image[TILES:]
    points = [in_mosaic(p) for p in places(rivers, 0)] + [in_mosaic(p, row=1) for p in places(forests, 1)]
    first = [[(x + 0.5) / SIZE, (y + 0.5) / SIZE] for _, y, x in places(rivers[:1], 0)]
    out = tmp_path_factory.mktemp("pictures")
    natural, false = (f"rsdistill_mosaic_all-tiles_{name}" for name in ("natural", "false"))
    request = {
        "views": {"natural": [natural], "false": [false], "labelled": ["rsdistill_tile_index", natural]},
        "pixels": {"natural": points, "false": points},
        "tiles": {"river": ["tiles/river/river_000.tif", first]},
    }
    (out / "request.json").write_text(json.dumps(request))
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([SYSTEM_PYTHON, RENDER, moved, out], check=True, env=environment, timeout=300, capture_output=True)
    return json.loads((out / "result.json").read_text()), out, moved


def test_every_layer_is_valid_and_lies_in_the_moved_folder(seen):
    result, _, _ = seen
    assert result["opened"]
    assert len(result["layers"]) == 1 + 3 * 2
    for name, layer in result["layers"].items():
        assert layer["valid"], name
        assert layer["inside"], name
        assert layer["crs_valid"], name
        assert "not a place on Earth" in layer["crs"], name
    assert "not a place on Earth" in result["crs"]


def test_water_is_dark_and_leaves_are_green_in_natural_colour(seen):
    colours = np.array(seen[0]["natural"])
    water, leaves = colours[:12], colours[12:]
    assert water.max() < 110
    assert (leaves[:, 1] > leaves[:, 0]).all()
    assert (leaves[:, 1] > leaves[:, 2]).all()


def test_leaves_are_red_and_water_is_not_in_false_colour(seen):
    colours = np.array(seen[0]["false"])
    water, leaves = colours[:12], colours[12:]
    assert (leaves[:, 0] > 1.5 * leaves[:, 1]).all()
    assert (leaves[:, 0] > 1.5 * leaves[:, 2]).all()
    assert (water[:, 0] <= water[:, 1]).all()


def test_a_tile_alone_is_drawn_by_the_style_beside_it(seen):
    tile = seen[0]["tile river"]
    assert tile["valid"]
    assert tile["bands"] == ["Band 1: blue", "Band 2: green", "Band 3: red", "Band 4: nir"]
    # QGIS alone would show blue, green and red in the places of red, green and blue, stretched each for itself.
    assert np.array(tile["pixels"]).max() < 110


def test_categories_labels_groups_and_layout_are_there(seen):
    result, out, _ = seen
    assert result["categories"] == ["river", "forest", "other (renamed classes)"]
    assert "class_name" in result["labels"]
    assert {"all tiles", "classes", "river", "forest"} <= set(result["groups"])
    assert result["index_alone"] == {"valid": True, "renderer": "categorizedSymbol", "labels": True}
    assert result["layout"]
    assert (out / "layout.png").stat().st_size > 10_000


def test_labels_and_outlines_are_drawn(seen):
    import matplotlib.image

    _, out, _ = seen
    bare = matplotlib.image.imread(out / "natural.png")[..., :3]
    labelled = matplotlib.image.imread(out / "labelled.png")[..., :3]
    tile = int(bare.shape[1] * SIZE / ((TILES - 1) * SIZE * 9 // 8 + SIZE))
    corner, opposite = (
        (slice(tile // 40, tile // 6), slice(tile // 40, tile // 2)),
        (slice(-tile // 3, -tile // 20),) * 2,
    )
    changed = np.abs(labelled - bare).max(axis=2) > 0.1
    assert changed[corner].mean() > 0.1
    assert changed[opposite].mean() < 0.02
    assert changed[:3, : tile // 2].mean() > 0.5


def test_opening_leaves_no_sidecar_files(seen):
    assert not list(seen[2].rglob("*.aux.xml"))
