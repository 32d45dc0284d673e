"""A run that begins with a pretrained pipeline: its config as it is shipped, on a small folder of the same layout."""

from __future__ import annotations

import re

import pytest
from diffusers import StableDiffusionPipeline
from helpers.fake_scenes import write_dataset
from helpers.miniature import CONFIGS, miniature
from helpers.pretrained_pipelines import save_pipeline

from rsdistill.cli.main import main
from rsdistill.distilled import DistilledSet
from rsdistill.errors import EXIT_CODE

CONFIG = str(CONFIGS / "sd15_lora.yaml")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A dataset and a pipeline."""
    root = tmp_path_factory.mktemp("places")
    write_dataset(root / "data", "ucmerced", ("beach", "forest"), per_class=8)
    return root / "data", save_pipeline("sd15", root / "sd15")


def options(out, data, **others):
    """The config at miniature size; the codec is a pretrained one and takes none of the options of others."""
    named = miniature(out, data__root=data, distill__seeds="[0]", **{"data__size": 32} | others)
    pairs = zip(named[::2], named[1::2], strict=True)
    return [part for name, value in pairs if not name.startswith("--codec.") for part in (name, value)]


def test_a_lora_run_goes_through_and_stock_diffusers_loads_it(places, tmp_path, capsys):
    data, pipeline = places
    given = options(tmp_path, data, distill__options__preset=pipeline)
    assert main(["run", CONFIG, "--until", "train", *given]) == 0
    printed = capsys.readouterr().out
    found = re.search(r"05_train .* parameters (\d+), trained (\d+)", printed)
    assert found and 0 < int(found[2]) < 0.05 * int(found[1])
    assert main(["run", CONFIG, "--until", "distill", *given]) == 0
    assert "05_train: complete" in capsys.readouterr().out
    tiles = DistilledSet.load(tmp_path / "sd15_lora" / "09_distill" / "distilled.nc")
    assert tiles.image.shape == (4, 3, 32, 32) and tiles.manifest["base"]["folder"] == "sd15"
    kept = tmp_path / "sd15_lora" / "05_train" / "train"
    assert not list(kept.rglob("diffusion_pytorch_model*")), "the base is not copied"
    stock = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    stock.load_lora_weights(kept)
    assert stock.get_active_adapters()


def test_a_run_without_network_says_what_is_missing(places, tmp_path, capsys):
    data, _ = places
    given = options(tmp_path, data, data__size=64)
    assert main(["run", CONFIG, *given, "--dry-run"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    planned = {row[0]: float(row[4]) for row in rows}
    assert planned["07_prototypes"] < 4.3 < planned["05_train"] < 8.6
    whole = [*given, "--distill.options.lora", "null"]
    assert main(["run", CONFIG, "--until", "train", *whole, "--dry-run"]) == 0
    assert float(capsys.readouterr().out.splitlines()[-1].split()[4]) > 4.3 + 4 * 3.4
    assert main(["run", CONFIG, "--until", "codec", *given]) == EXIT_CODE
    told = capsys.readouterr().err
    assert "'stable-diffusion-v1-5/stable-diffusion-v1-5' on the hub" in told and "name its folder instead" in told
    assert main(["run", CONFIG, "--until", "codec", *given, "--data.size", "48"]) == EXIT_CODE
    assert "option data.size 48: codec and method need a multiple of 64" in capsys.readouterr().err


def test_presets_are_listed(capsys):
    assert main(["list", "presets"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["tiny", "compact", "small", "sd15", "sd2", "text2earth"]
