"""Every method, teacher and student takes the 13 bands of Sentinel-2 as it takes three."""

from __future__ import annotations

import numpy as np
import pytest

from rsdistill.codecs import create_codec, encode
from rsdistill.datasets import load_dataset
from rsdistill.distillers import create_distiller, list_distillers
from rsdistill.evaluation import class_agreement, evaluate
from rsdistill.models.networks import STUDENTS

DPD = {
    "teacher": {"width": 8, "blocks": 1, "steps": 4},
    "training": {"steps": 3, "batch": 8},
    "sampling": {"steps": 2},
    "candidates": 2,
}


@pytest.fixture(scope="module")
def data():
    options = {"size": 16, "chips_per_class": 12, "classes": ["forest", "beach"], "bands": "sentinel2"}
    return load_dataset("synthetic", train=0.5, **options)


@pytest.fixture(scope="module")
def latents(data, quiet, tmp_path_factory):
    codec = create_codec("kl", data.bands, latent_channels=4, block_channels=(16,), patch=4, steps=4, batch=8)
    codec.fit(data, trainer=quiet)
    return encode(codec, data, tmp_path_factory.mktemp("latents") / "store.zarr", progress=False)


@pytest.mark.parametrize("name", list_distillers())
def test_method_distils_thirteen_bands(name, data, latents, quiet):
    options = DPD if name == "dpd" else {}
    tiles = create_distiller(name, **options).fit(data, latents, trainer=quiet).distill(2, seed=0)
    assert tiles.image.shape == (4, 13, 16, 16) and tiles.image.dtype == np.uint16
    assert tiles.bands == data.bands and tiles.label.tolist() == [0, 0, 1, 1]
    # Every band was made, each within the sensor's range and none as a copy of another.
    planes = tiles.image.swapaxes(0, 1).reshape(13, -1)
    assert planes.min() >= 1 and len(np.unique(planes, axis=0)) == 13
    assert all(np.isfinite(row.distance) and set(row.indices) for row in class_agreement(tiles, data))


@pytest.mark.parametrize("student", STUDENTS.names())
def test_student_learns_from_thirteen_bands(student, data, latents, quiet):
    tiles = create_distiller("random").fit(data, latents, trainer=quiet).distill(2, seed=0)
    recipe = {"student": student, "steps": 2, "size": 16}
    (row,) = evaluate(tiles, data, recipe, seeds=(0,), full=False, options=quiet).rows
    assert row.student == student and 0 <= row.oa <= 1
