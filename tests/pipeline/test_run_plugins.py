"""Plug-ins of somebody else's, one of each kind, in a real run: by --import and by entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
CONFIG = """
data: {name: outside-stripes, size: 16, train: 0.5, options: {per_class: 16}}
codec: {name: outside-pool}
distill: {method: outside-mean, ipc: 2, options: {noise: 0.05}}
evaluation:
  recipe: {student: outside-linear, steps: 4, full_steps: 4, size: 16}
  seeds: [0]
  baselines: [herding]
  metrics: [outside-first]
audit: {features: descriptors}
export: {formats: [outside-counts], allow_blocked: true}
trainer: {accelerator: cpu, progress: false}
"""
DIFFUSION = """
data: {name: outside-stripes, size: 16, train: 0.5, options: {per_class: 16}}
codec: {name: outside-pool}
distill:
  ipc: 1
  options:
    teacher: {width: 8, blocks: 1, steps: 2}
    training: {steps: 2, batch: 8}
    sampling: {steps: 2}
    candidates: 1
trainer: {accelerator: cpu, progress: false}
"""


def rsdistill(*arguments, path=None):
    """The command in a process of its own, with a folder on its path."""
    program = "import sys; from rsdistill.cli.main import main; sys.exit(main())"
    before = "" if path is None else f"import sys; sys.path.insert(0, {str(path)!r}); "
    command = [sys.executable, "-c", before + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def installed(tmp_path):
    """A folder with the plug-ins as an installed package of their own."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "outside_plugins.py").write_text((HELPERS / "plugins_outside.py").read_text("utf-8"), encoding="utf-8")
    info = site / "outside_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-plugins\nVersion: 1.0\n")
    groups = ("datasets", "codecs", "distillers", "students", "metrics", "export_formats")
    (info / "entry_points.txt").write_text("".join(f"[rsdistill.{g}]\nmine = outside_plugins\n" for g in groups))
    return site


def check_run(folder: Path) -> None:
    stages = json.loads((folder / "manifest.json").read_text("utf-8"))["stages"]
    assert "averages" in stages and stages["averages"]["figures"] == {"averages": 2}
    assert "averages" in (folder / "report.html").read_text("utf-8")
    (tiles,) = folder.glob("*_export/tiles")
    assert (tiles / "counts.txt").read_text("utf-8") == "upright 2\nlying 2\n"
    (judged,) = folder.glob("*_evaluate/evaluation.json")
    found = json.loads(judged.read_text("utf-8"))
    assert "outside-first" in judged.read_text("utf-8") and found["rows"][0]["student"] == "outside-linear"
    assert list(folder.glob("*_codec")), "the baseline reads latents of the codec"


def test_plugins_by_import_run_from_data_to_report(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG)
    given = ["--import", HELPERS / "plugins_outside.py"]
    told = rsdistill("run", config, *given, "--help")
    assert told.returncode == 0, told.stderr
    assert "averages" in told.stdout and "average each class" in told.stdout and "noise" in told.stdout
    plan = rsdistill("run", config, *given, "--dry-run", "--out", tmp_path / "runs")
    assert plan.returncode == 0 and "averages" in plan.stdout, plan.stderr
    done = rsdistill("run", config, *given, "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    check_run(tmp_path / "runs" / "mine")


def test_plugins_by_entry_point_run_from_data_to_report(tmp_path, installed):
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG)
    done = rsdistill("run", config, "--out", tmp_path / "runs", path=installed)
    assert done.returncode == 0, done.stderr
    check_run(tmp_path / "runs" / "mine")


def test_a_codec_that_is_no_autoencoder_serves_a_denoiser_from_scratch(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(DIFFUSION)
    given = ["--import", HELPERS / "plugins_outside.py", "--out", tmp_path / "runs", "--until", "distill"]
    done = rsdistill("run", config, *given)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs" / "mine").glob("*_distill/distilled.nc"))
