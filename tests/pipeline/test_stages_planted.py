"""Whole runs on chips that carry a mark: under the policy nothing of it is found anywhere, without it is."""

import base64
import json
import warnings
import zipfile

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from helpers.miniature import MINIATURE, MINIATURE_KL
from helpers.planted_marks import MARK, marked_chips, opened, traces, write_marked
from PIL import Image
from safetensors.numpy import save_file

from rsdistill.cli.main import main
from rsdistill.codecs import LatentStore, load_codec
from rsdistill.datasets import SkippedChipsWarning, load_dataset
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import DISTILLERS
from rsdistill.pipeline.engine import Pipeline

RULES = f"""\
dataset: folder
rules:
  - {{class: {MARK}, action: exclude}}
  - {{pattern: "*", action: allow}}
"""


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marked")
    (folder / "policy.yaml").write_text(RULES)
    write_marked(folder / "data")
    return folder


def run(marked, out, method, policy, monkeypatch):
    """Run to the end; returns the run folder, traces on the way, and the stages that opened marked files."""
    config = out / "trial.yaml"
    config.write_text("data: {name: folder}\ncodec: {name: kl}\n")
    known = DISTILLERS.get(method).options()
    small = {
        name: value
        for name, value in (MINIATURE | MINIATURE_KL).items()
        if not name.startswith("distill.options.") or name.split(".")[2] in known
    }
    if "steps" in known:
        small["distill.options.steps"] = 2
    options = {"distill.method": method, "data.root": marked / "data", "data.options.gsd": 1, "out": out} | small
    options |= {"evaluation.baselines": "[]", "trainer.checkpoint_seconds": 0}
    if policy:
        options["data.policy"] = marked / "policy.yaml"
    on_the_way, openers = [], set()

    def remove_work(self, name, original=Pipeline._remove_work):
        on_the_way.extend(traces(self.folder / ".work"))
        original(self, name)

    def carry_out(self, stage, state, original=Pipeline._carry_out):
        assert opened() == []
        original(self, stage, state)
        openers.update([stage.name] if opened() else [])

    monkeypatch.setattr(Pipeline, "_remove_work", remove_work)
    monkeypatch.setattr(Pipeline, "_carry_out", carry_out)
    opened()
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert main(["run", str(config), *arguments]) == 0
    assert opened() == []
    return out / "trial", on_the_way, openers


def latent_distance(folder, chips):
    """Distance of the nearest cached latent to that of any of these chips; None where a run caches none."""
    stores = list(folder.glob("*_encode/latents.zarr"))
    if not stores:
        return None
    codec = load_codec(next(folder.glob("*_codec")) / "codec")
    store = LatentStore(stores[0], codec)
    theirs = codec.encode(torch.from_numpy(chips.astype(np.float32))).flatten(1)
    cached = store.read(np.arange(store.open().sizes["sample"])).mean.flatten(1)
    return float(torch.cdist(theirs, cached).min())


@pytest.mark.slow
@pytest.mark.parametrize("method", DISTILLERS.names())
def test_nothing_of_an_excluded_class_is_left(method, marked, tmp_path, monkeypatch, capfd):
    folder, on_the_way, openers = run(marked, tmp_path, method, True, monkeypatch)
    # The screen alone learns what to look for, apart from all else.
    assert openers <= {"screen"}
    assert on_the_way == []
    assert traces(folder) == []
    said = capfd.readouterr()
    assert MARK not in (said.out + said.err).lower()
    distance = latent_distance(folder, marked_chips(marked / "data"))
    assert distance is None or distance > 0.1
    manifest = DistilledSet.load(next(folder.glob("*_distill")) / "distilled.nc").manifest
    assert list(folder.glob("*_screen/screen.json"))
    assert manifest["policy"]["counts"] == {"excluded": 1, "merged": 0, "protected": 0, "allowed": 2}


@pytest.mark.slow
def test_without_the_policy_the_search_finds_the_mark(marked, tmp_path, monkeypatch):
    """The negative control: what the test above looks for is there, and is found, when nothing keeps it out."""
    folder, on_the_way, openers = run(marked, tmp_path, "dpd", False, monkeypatch)
    assert "prepare" in openers
    assert on_the_way
    found = "\n".join(traces(folder))
    for expected in ("chips.npy: pixels", "index.json: text", "distilled.nc: text", "report.html", "index.gpkg: text"):
        assert expected in found
    assert latent_distance(folder, marked_chips(marked / "data")) < 0.1


def test_files_of_an_excluded_class_are_not_even_opened(marked, tmp_path):
    for path in (marked / "data").rglob("*"):
        target = tmp_path / "data" / path.relative_to(marked / "data")
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"" if MARK in path.name else path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error", SkippedChipsWarning)
        data = load_dataset("folder", tmp_path / "data", gsd=1.0, policy=marked / "policy.yaml")
    assert [info.key for info in data.classes] == ["farm", "wood"]
    assert not any(MARK in chip_id for chip_id in data.source.chip_ids)
    with pytest.raises(Exception, match="cannot be used"):
        load_dataset("folder", tmp_path / "data", gsd=1.0)


def test_search_sees_what_it_is_for(marked, tmp_path):
    """Each kind of file is searched: the mark is found in it, and not in the same file without the mark."""
    for name, chip in (("with", marked_chips(marked / "data")[0]), ("without", np.full((3, 16, 16), 90, np.uint8))):
        folder = tmp_path / name
        folder.mkdir()
        word = MARK.upper() if name == "with" else "farm"
        np.save(folder / "chips.npy", chip)
        save_file({"chip": chip.astype(np.float32)}, folder / "chip.safetensors")
        xr.Dataset({"image": (("b", "y", "x"), chip)}, attrs={"class": word}).to_netcdf(folder / "set.nc")
        zarr.save_array(str(folder / "chip.zarr"), chip.astype(np.float32))
        (folder / "record.json").write_text(json.dumps({"class": word}))
        with zipfile.ZipFile(folder / "project.qgz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("project.qgs", 20 * word)
        picture = Image.fromarray(chip.transpose(1, 2, 0)).resize((50, 50))
        picture.save(folder / "large.png")
        page = base64.b64encode((folder / "large.png").read_bytes()).decode()
        (folder / "report.html").write_text(f"<img src='data:image/png;base64,{page}'>")
    found = {line.removeprefix(str(tmp_path)) for line in traces(tmp_path / "with")}
    assert found == {
        "/with/chips.npy: pixels",
        "/with/chip.safetensors: pixels",
        "/with/chip.zarr/zarr.json: pixels",
        "/with/large.png: pixels",
        "/with/project.qgz: text",
        "/with/record.json: text",
        "/with/report.html: pixels",
        "/with/set.nc: pixels",
        "/with/set.nc: text",
    }
    assert traces(tmp_path / "without") == []
