"""The audit within a run, and of sets made elsewhere, from the command line."""

import json
from dataclasses import replace

import geopandas
import numpy as np
import pytest
from helpers.miniature import CONFIGS, synthetic

from rsdistill.audit import AuditReport
from rsdistill.cli.main import main
from rsdistill.distilled import DistilledSet
from rsdistill.errors import EXIT_CODE

QUICKSTART = str(CONFIGS / "quickstart.yaml")
METHOD = {"distill__method": "random", "export__allow_blocked": "false"}
_FOUND_BLOCKED = 1


def options_of(out, **others):
    """Real chips, which need no training; options of the config's own method are left behind."""
    given = synthetic(out, **(METHOD | others))
    pairs = zip(given[::2], given[1::2], strict=True)
    return [part for name, value in pairs if not name.startswith("--distill.options.") for part in (name, value)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert main(["run", QUICKSTART, *options_of(out)]) == 0
    return out / "quickstart"


def stage(run, name):
    return next(run.glob(f"*_{name}"))


def test_verdicts_reach_sets_tiles_and_manifests(finished):
    folder, tiles = stage(finished, "audit"), stage(finished, "export") / "tiles"
    for number in ("", "_2"):
        report = AuditReport.from_dict(json.loads((folder / f"audit{number}.json").read_text()))
        audited = DistilledSet.load(folder / f"distilled{number}.nc")
        assert tuple(audited.verdict) == report.verdicts
        assert report.split_checked and report.real
    first = DistilledSet.load(folder / "distilled.nc")
    assert "block" in first.verdict
    frame = geopandas.read_file(tiles / "index.gpkg")
    assert frame["verdict"].tolist() == list(first.verdict)
    # Real chips claim nothing that a copy would break: they are written and say what they are.
    manifest = json.loads((tiles / "manifest.json").read_text())
    assert manifest["audit"]["blocked"] == list(first.verdict).count("block")
    assert manifest["audit"]["left_out"] == 0
    assert manifest["facts"]["provenance"]["audit"]["verdicts"]["block"] == manifest["audit"]["blocked"]
    page = (folder / "audit.html").read_text()
    assert "data:image/png" in page and "cannot prove" in page
    assert "http" not in page.split("<style>")[0].replace("http-equiv", "")


def test_page_without_real_chips_shows_none(tmp_path):
    assert main(["run", QUICKSTART, "--until", "audit", *options_of(tmp_path, report__show_real="false")]) == 0
    page = (stage(tmp_path / "quickstart", "audit") / "audit.html").read_text()
    assert "data:image" not in page and "most suspicious pairs" not in page


def audit_file(finished, path, out, *more):
    config = finished / "config.yaml"
    return main(["audit", str(path), "--config", str(config), "--out", str(out), *more])


def test_set_made_elsewhere_is_audited_against_the_data_of_its_run(finished, tmp_path, capsys):
    out = tmp_path / "found"
    assert audit_file(finished, stage(finished, "distill") / "distilled.nc", out) == _FOUND_BLOCKED
    assert "block" in capsys.readouterr().out
    ours = AuditReport.from_dict(json.loads((out / "audit.json").read_text()))
    theirs = AuditReport.from_dict(json.loads((stage(finished, "audit") / "audit.json").read_text()))
    assert ours.split_checked and ours.verdicts == theirs.verdicts
    assert audit_file(finished, stage(finished, "distill") / "distilled.nc", out) == EXIT_CODE
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.seed", "5"], "another split"),
        (["--data.classes", "[forest, river]"], "runway"),
        (["--data.bands", "[red, green, blue]"], "bands blue, green, red, nir"),
        (["--audit.review", "2"], "audit.review"),
        (["--audit.reviev", "0.01"], "did you mean 'review'"),
    ],
)
def test_wrong_data_and_options_end_in_one_line(more, message, finished, tmp_path, capsys):
    path = stage(finished, "distill") / "distilled.nc"
    assert audit_file(finished, path, tmp_path / "out", *more) == EXIT_CODE
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0]
    assert not list(tmp_path.iterdir())


def test_altered_set_and_missing_dataset_are_said(finished, tmp_path, capsys):
    import xarray as xr

    path = stage(finished, "distill") / "distilled.nc"
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        altered = opened.load()
    altered.attrs["metadata"] = altered.attrs["metadata"].replace('"seed":0', '"seed":1')
    altered.to_netcdf(tmp_path / "altered.nc", engine="h5netcdf")
    assert audit_file(finished, tmp_path / "altered.nc", tmp_path / "out") == EXIT_CODE
    assert "was altered after it was made" in capsys.readouterr().err
    assert main(["audit", str(path), "--out", str(tmp_path / "out")]) == EXIT_CODE
    assert "give --data NAME" in capsys.readouterr().err


def test_blocked_tiles_of_a_generated_set_stay_behind(finished, tmp_path, capsys):
    made = DistilledSet.load(stage(finished, "distill") / "distilled.nc")
    claimed = replace(made, manifest={k: v for k, v in made.manifest.items() if k != "digital_source_type"})
    mixed = replace(claimed, verdict=["block", *["pass"] * (len(made) - 1)])
    path = mixed.save(tmp_path / "mixed.nc")
    assert main(["export", str(path), "--out", str(tmp_path / "tiles")]) == 0
    assert f"blocked 1 of {len(made)} tiles" in capsys.readouterr().err
    assert len(list((tmp_path / "tiles").rglob("*.tif"))) == len(made) - 1
    assert main(["export", str(path), "--out", str(tmp_path / "all"), "--allow-blocked"]) == 0
    assert len(list((tmp_path / "all").rglob("*.tif"))) == len(made)
    every = replace(claimed, verdict=["block"] * len(made)).save(tmp_path / "every.nc")
    assert main(["export", str(every), "--out", str(tmp_path / "none")]) == EXIT_CODE
    assert "export.allow_blocked" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert np.array_equal(DistilledSet.load(path).image, made.image)
