"""Whole runs at miniature size, from the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from helpers.fake_scenes import write_dataset, write_folder
from helpers.miniature import CONFIGS, miniature, synthetic
from helpers.pretrained_pipelines import tiny_weights

from rsdistill.cli.main import main
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import DISTILLERS, Distiller
from rsdistill.errors import EXIT_CODE
from rsdistill.training.callbacks import training_log
from rsdistill.utils.provenance import REAL

QUICKSTART = str(CONFIGS / "quickstart.yaml")
ALL_STAGES = [
    *("prepare", "codec", "encode", "teacher", "train", "matching_networks", "prototypes"),
    *("candidates", "distill", "audit", "evaluate", "export", "report"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished quickstart at miniature size."""
    out = tmp_path_factory.mktemp("runs")
    assert main(["run", QUICKSTART, *synthetic(out)]) == 0
    return out


def load(out, name="quickstart"):
    return DistilledSet.load(next((out / name).glob("*_distill")) / "distilled.nc")


def test_quickstart_leaves_all_that_it_promises(finished):
    run = finished / "quickstart"
    assert sorted(p.name[3:] for p in run.glob("[0-9]*")) == sorted(ALL_STAGES)
    tiles = sorted(run.glob("*_export/tiles/**/*.tif"))
    distilled = load(finished)
    assert len(tiles) == len(distilled) == 2 * 3
    for tile in tiles:
        with rasterio.open(tile) as opened:
            assert opened.descriptions == distilled.bands.names
            assert opened.read().shape == (4, 16, 16)
    for left in ("report.html", "manifest.json", "config.yaml"):
        assert (run / left).stat().st_size > 100
    assert list(run.glob("*_export/tiles/index.gpkg"))
    assert not (run / ".work").exists()


def test_training_is_logged_and_reported(finished):
    (train,) = (finished / "quickstart").glob("*_train")
    log = training_log(train / "log")
    assert log["denoising"][0] == [1, 2, 3] and log["val_denoising_averaged"][0] == [3]
    figures = json.loads((train / "stage.json").read_text())["figures"]
    assert figures["val_denoising_averaged"] == round(log["val_denoising_averaged"][1][-1], 4)
    assert "Logged while training" in (finished / "quickstart" / "report.html").read_text()


def test_second_run_redoes_nothing(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in (finished / "quickstart").glob("*/stage.json")}
    assert main(["run", QUICKSTART, *synthetic(finished)]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (finished / "quickstart").glob("*/stage.json")}
    printed = capsys.readouterr().out
    assert printed.count("complete (took") == len(ALL_STAGES)
    assert re.search(r"^dpd .*^random .*^full ", printed, re.MULTILINE | re.DOTALL)


def test_dry_run_says_what_would_be_redone(finished, capsys):
    options = synthetic(finished, distill__options__candidates=1)
    assert main(["run", QUICKSTART, *options, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    todo = [line.split()[0][3:] for line in lines if "to do" in line]
    assert todo == ["candidates", "distill", "audit", "evaluate", "export", "report"]
    assert load(finished).manifest["options"]["candidates"] == 2


def test_same_seed_same_set_and_another_seed_another(finished, tmp_path):
    assert main(["run", QUICKSTART, "--until", "distill", *synthetic(tmp_path)]) == 0
    assert load(tmp_path) == load(finished)
    assert not list((tmp_path / "quickstart").glob("*_evaluate"))
    second = DistilledSet.load(next((finished / "quickstart").glob("*_distill")) / "distilled_2.nc")
    assert second.manifest["seed"] == 1
    assert not np.array_equal(second.image, load(finished).image)


def test_no_stage_keeps_names_of_the_originals(tmp_path):
    root = tmp_path / "data"
    write_dataset(root, "ucmerced", ("beach", "forest"), per_class=8)
    options = miniature(tmp_path, data__root=root)
    assert main(["run", str(CONFIGS / "ucmerced.yaml"), *options]) == 0
    for path in (tmp_path / "ucmerced").rglob("*"):
        assert not re.search(r"(beach|forest)_\d\b(?!\d)", path.name) or "tiles" in str(path)
        if path.is_file() and path.suffix in (".json", ".nc", ".yaml", ".html"):
            assert b"beach_7" not in path.read_bytes()


# test_pipeline_pretrained.py runs the one that needs a pretrained pipeline.
@pytest.mark.parametrize("path", sorted({*CONFIGS.glob("*.yaml")} - {CONFIGS / "sd15_lora.yaml"}), ids=lambda p: p.stem)
def test_every_config_runs_at_miniature_size(path, tmp_path):
    if path.stem == "quickstart":
        options = synthetic(tmp_path)
    elif path.stem == "folder":
        write_folder(tmp_path / "data", per_class=8)
        options = miniature(tmp_path, data__root=tmp_path / "data", distill__seeds="[0]")
    else:
        name = path.stem.split("_")[0]
        classes = {"ucmerced": ("beach", "forest"), "aid": ("Beach", "Forest"), "eurosat": ("Forest", "River")}[name]
        write_dataset(tmp_path / "data", name, classes, per_class=8)
        weights = {"codec__options__source": tiny_weights(tmp_path / "tiny")} if path.stem.endswith("tiny") else {}
        options = miniature(tmp_path, data__root=tmp_path / "data", distill__seeds="[0]", **weights)
    assert main(["run", str(path), *options]) == 0
    distilled = load(tmp_path, path.stem)
    assert set(distilled.label) == set(range(len(distilled.classes)))
    assert np.bincount(distilled.label).tolist() == [2] * len(distilled.classes)


def test_new_distiller_of_ten_lines(tmp_path, capsys):
    with DISTILLERS.temporary():

        @DISTILLERS.register("mean", summary="the mean chip of each class")
        class MeanChip(Distiller):
            real_pixels = True

            def distill(self, ipc, seed=0):
                train, data = self.data_.train, self.data_
                labels = np.repeat(np.arange(len(data.classes)), ipc)
                image = np.stack([train.images(np.flatnonzero(train.labels == label)).mean(axis=0) for label in labels])
                return DistilledSet(image, labels, data.classes, data.bands, data.gsd, self.manifest(ipc, seed))

        options = synthetic(tmp_path, distill__method="mean")
        kept = [
            (n, v) for n, v in zip(options[::2], options[1::2], strict=True) if not n.startswith("--distill.options.")
        ]
        arguments = [part for pair in kept for part in pair]
        # Another method leaves the options of the config's own behind.
        assert main(["run", QUICKSTART, *arguments]) == 0
        assert load(tmp_path).manifest["digital_source_type"] == REAL
        # A method that needs no latents costs no codec.
        assert not list((tmp_path / "quickstart").glob("*_codec"))
        assert main(["list", "distillers"]) == 0
        assert re.search(r"^mean +the mean chip", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "none.yaml does not exist"),
        (["run", QUICKSTART, "--data.name", "synthetik"], "did you mean 'synthetic'"),
        (["run", QUICKSTART, "--codec.name", "kk"], "unknown codec 'kk'"),
        (["run", QUICKSTART, "--distill.method", "dpp"], "did you mean 'dpd'"),
        (["run", QUICKSTART, "--distill.options.training.stepss", "3"], "distill.options.training 'stepss'"),
        (["run", QUICKSTART, "--distill.options.preset", "huge"], "preset"),
        (["run", QUICKSTART, "--codec.options.steps", "many"], "codec.options.steps"),
        (["run", QUICKSTART, "--evaluation.recipe.stepz", "3"], "stepz"),
        (["run", QUICKSTART, "--evaluation.recipe.student", "resnet"], "resnet"),
        (["run", QUICKSTART, "--evaluation.baselines", "[randm]"], "did you mean 'random'"),
        (["run", QUICKSTART, "--trainer.accelerator", "gpu"], "not available"),
        (["run", QUICKSTART, "--trainer.accelerator", "warp"], "warp"),
        (["run", QUICKSTART, "--data.scheme", "strat"], "did you mean 'stratified'"),
        (["run", QUICKSTART, "--data.classes", "[forrest]"], "did you mean 'forest'"),
        (["run", QUICKSTART, "--data.size", "30"], "multiple of 8; choose 32"),
        (["run", QUICKSTART, "--distill.ipc", "500"], "ipc=500"),
        (["run", QUICKSTART, "--encode.views", "3"], "views"),
        (["run", QUICKSTART, "--export.gsd", "-1"], "gsd"),
        (["run", str(CONFIGS / "ucmerced.yaml")], "root"),
        (["run", str(CONFIGS / "ucmerced.yaml"), "--data.root", "nowhere"], "nowhere"),
        (["export", "none.nc", "--out", "x"], "none.nc does not exist"),
        (["run", QUICKSTART, "--distill.ipc", "500", "--dry-run"], "ipc=500"),
        (["export", "README.md", "--out", "x"], "README.md does not exist"),
        (["list", "distillers", "--all"], "--all"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == EXIT_CODE
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]
    assert not list(tmp_path.rglob("*_prepare"))
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_named(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main(["run", QUICKSTART, *synthetic(tmp_path)]) == EXIT_CODE
    assert "permission" in capsys.readouterr().err


def test_out_that_is_a_file_is_named(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main(["run", QUICKSTART, *synthetic(tmp_path / "out")]) == EXIT_CODE
    assert "out" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_in_every_stage_the_set_is_the_same(finished, tmp_path):
    """kill -9 as soon as each stage has begun its work, again and again, then let the run end."""
    options = synthetic(tmp_path, trainer__checkpoint_seconds=0)
    command = [sys.executable, "-m", "rsdistill", "run", QUICKSTART, *options]
    for stage in ALL_STAGES:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        work = tmp_path / "quickstart" / ".work"
        while process.poll() is None and not list(work.glob(f"{stage}-*/result")):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, f"{stage} was done before the kill"
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert load(tmp_path) == load(finished)


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    """Two processes on the CPU share each batch; the first one alone writes, and the run ends complete."""
    shared = {"trainer__accelerator": "cpu", "trainer__devices": 2, "trainer__strategy": "ddp"}
    options = synthetic(tmp_path, **shared, distill__options__training__accumulate=2)
    command = [sys.executable, "-m", "rsdistill", "run", QUICKSTART, *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("01_prepare: running") == 1
    assert sorted(p.name[3:] for p in (tmp_path / "quickstart").glob("[0-9]*")) == sorted(ALL_STAGES)
    assert len(load(tmp_path)) == 2 * 3
