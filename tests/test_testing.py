"""rsdistill.testing: what is built in keeps its contracts, and a plug-in that breaks one is told how."""

import json

import numpy as np
import pytest
import torch
from helpers.fake_scenes import ListedScenes, noise, write_dataset, write_folder, write_raster
from helpers.plain_codec import BlockMeans
from helpers.pretrained_pipelines import save_pipeline

from rsdistill.codecs import CODECS
from rsdistill.datasets import DATASETS, SyntheticScenes
from rsdistill.distillers import DISTILLERS, FitStep
from rsdistill.distillers.coreset import RandomSubset
from rsdistill.testing import check_codec, check_dataset, check_distiller

SMALL_CODEC = {"patch": 4, "latent_channels": 4, "steps": 2}


def test_rendered_scenes():
    check_dataset("synthetic", {"size": 16, "chips_per_class": 6, "classes": ["forest", "river"]})


def test_folder_of_chips(tmp_path):
    check_dataset("folder", {"root": write_folder(tmp_path), "gsd": 1.0})


@pytest.mark.parametrize("name", ["ucmerced", "resisc45", "aid"])
def test_datasets_of_torchgeo(tmp_path, name):
    write_dataset(tmp_path, name)
    check_dataset(name, {"root": tmp_path}, run=name == "aid")


def test_multispectral_dataset_of_torchgeo(tmp_path):
    folder = write_dataset(tmp_path, "eurosat")
    write_raster(folder / "Forest" / "Forest_9.tif", noise(9, 13, 16, "uint16"), gsd=10.0)
    check_dataset("eurosat", {"root": tmp_path}, run=False)


@pytest.mark.parametrize(
    ("name", "options"),
    [("kl", {**SMALL_CODEC, "block_channels": (16,)}), ("spectral", {**SMALL_CODEC, "width": 12})],
)
def test_codecs(name, options):
    check_codec(name, options)


def test_pretrained_codecs(tmp_path):
    folder = save_pipeline("sd15", tmp_path)
    config = folder / "vae" / "config.json"
    # Of random weights, whose latents the factor of trained ones would not bring to unit variance.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 3.6}))
    check_codec("pretrained", {"source": str(folder)}, bands="rgb", run=False)
    check_codec("inflated", {"pretrained": str(folder), "subfolder": "vae", "steps": 2, "batch": 2}, run=False)


def test_codec_that_is_no_autoencoder():
    check_codec(BlockMeans)
    assert "block-means" not in [entry.name for entry in CODECS]


@pytest.mark.parametrize("name", ["random", "herding", "kcenter", "kmeans"])
def test_coresets(name):
    check_distiller(name, run=name in ("random", "kmeans"))


@pytest.mark.slow
def test_default_distiller():
    small = {
        "teacher": {"width": 8, "steps": 3}, "training": {"steps": 3, "batch": 8}, "sampling": {"steps": 2},
        "candidates": 2,
    }  # fmt: skip
    check_distiller("dpd", small)


class Floats(ListedScenes):
    name = "floats"

    def __init__(self):
        super().__init__([0, 0, 1, 1])

    def read(self, index):
        return np.zeros((3, 4, 4), np.float32)


class Changing(Floats):
    name = "changing"

    def read(self, index):
        return np.random.default_rng().integers(0, 255, (3, 4, 4), np.uint8)


class GapInLabels(Floats):
    name = "gap"

    def __init__(self):
        ListedScenes.__init__(self, [0, 0, 2, 2])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Floats, "'floats', chip .*: read returns float32, but bands.dtype is uint8"),
        (Changing, "'changing', chip .*: reading it twice gives other pixels"),
        (GapInLabels, r"'gap': labels are \[0, 2\], but its classes are numbered \[0, 1, 2\]"),
    ],
)
def test_datasets_that_break_the_contract(kind, said):
    with pytest.raises(AssertionError, match=said):
        check_dataset(kind)
    assert kind.name not in DATASETS.names()


class Cutting(BlockMeans):
    name = "cutting"

    def decode(self, latents):
        return super().decode(latents).detach()


class Forgetting(BlockMeans):
    name = "forgetting"

    def __init__(self, bands, block: int = 2) -> None:
        super().__init__(bands, block)
        self.shift = float(torch.rand(()))

    def posterior(self, images):
        mean, logvar = super().posterior(images)
        return mean + self.shift, logvar


class Pickling(BlockMeans):
    name = "pickling"

    def save_weights(self, folder):
        torch.save({}, folder / "weights.pt")
        return super().save_weights(folder)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Cutting, "codec 'cutting': decode gives latents that ask for it no gradient"),
        (Forgetting, "codec 'forgetting': loaded from its folder it encodes or decodes otherwise"),
        (Pickling, r"codec 'pickling': save writes \['weights.pt'\], which may be pickle"),
    ],
)
def test_codecs_that_break_the_contract(kind, said):
    with pytest.raises(AssertionError, match=said):
        check_codec(kind)


class Pretending(RandomSubset):
    name, real_pixels = "pretending", False


class Losing(RandomSubset):
    name = "losing"

    def __init__(self, share: float = 0.5) -> None:
        self.kept = share


class Wandering(RandomSubset):
    name = "wandering"

    def choose(self, members, ipc, seed):
        return np.random.default_rng().choice(members, ipc, replace=False)


class Repeating(RandomSubset):
    name = "repeating"

    def redraw(self, ipc, seed, positions, attempt):
        return self.distill(ipc, seed).subset(positions)


class OtherClasses(RandomSubset):
    name = "other_classes"

    def redraw(self, ipc, seed, positions, attempt):
        return super().redraw(ipc, seed, positions[::-1], attempt)


class Amnesiac(RandomSubset):
    name = "amnesiac"

    def steps(self, ipc=None, seeds=()):
        def fit(folder):
            self.shift_ = 1
            return {}

        return [
            FitStep("shift", "learn a shift", {}, fit, lambda folder: None, lambda folder: setattr(self, "shift_", 0))
        ]

    def choose(self, members, ipc, seed):
        return super().choose(members, ipc, seed + self.shift_)


class Silent(RandomSubset):
    name = "silent"

    def manifest(self, ipc, seed):
        return {"method": self.name}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Pretending, "distiller 'pretending': 6 images are real chips, but real_pixels is False"),
        (Losing, "distiller 'losing': __init__ does not keep option 'share' in an attribute"),
        (Wandering, "distiller 'wandering': the same seed gives other images"),
        (Repeating, "distiller 'repeating': redraw gives images that the set holds already"),
        (OtherClasses, r"distiller 'other_classes': redraw gives labels \[0, 2\], not \[2, 0\]"),
        (Amnesiac, "distiller 'amnesiac': loaded from what its steps saved it makes other images"),
        (Silent, "distiller 'silent': the manifest lacks options, ipc, seed, .*self.manifest"),
    ],
)
def test_distillers_that_break_the_contract(kind, said):
    with pytest.raises(AssertionError, match=said):
        check_distiller(kind)
    assert kind.name not in DISTILLERS.names()


def test_class_that_is_registered_is_known_by_its_name():
    check_dataset(SyntheticScenes, {"size": 16, "chips_per_class": 4, "classes": ["forest", "river"]}, run=False)
