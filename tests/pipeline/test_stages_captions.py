"""Runs with captions: a stage of their own, prompts from clusters, and no word that a policy keeps out."""

import csv
import shutil

import pytest
import xarray as xr
from helpers.miniature import CONFIGS, synthetic

from rsdistill.captions import Captions
from rsdistill.captions.from_file import FileCaptioner
from rsdistill.cli.main import main
from rsdistill.distilled import DistilledSet
from rsdistill.errors import EXIT_CODE, OptionError, PolicyError
from rsdistill.pipeline.config import load_config
from rsdistill.pipeline.run import Run

QUICKSTART = str(CONFIGS / "quickstart.yaml")
POLICY = """\
dataset: synthetic
rules:
  - {class: runway, action: exclude}
  - {class: river, action: RIVER}
  - {pattern: "*", action: allow}
excluded_terms: [lighthouse]
"""
SAYS = (
    "A {name} with tall reeds. A runway lies beside it.",
    "Tall reeds grow in a {name}. A Light-House stands near Lake Tahoe.",
    "A {name} with tall reeds. Lighthouses and airport runways at 48.8566, 2.3522.",
)
# The last is spelt like this in the middle of words too.
KEPT_OUT = (b"runway", b"lighthouse", b"light-house", b"tahoe", b"48.8566")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    (folder / "policy.yaml").write_text(POLICY.replace("RIVER", "allow"))
    write_captions(folder / "words.csv", SAYS)
    return folder


def write_captions(path, says):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("filename", "caption"))
        for name in ("forest", "river"):
            rows.writerows((f"{name}_{n:04d}", says[n % len(says)].format(name=name)) for n in range(12))


def options(folder, **others):
    words = {"captions__name": "file", "captions__options__path": folder / "words.csv"}
    data = {"data__policy": folder / "policy.yaml", "data__classes": "[forest, river]", "screen": "null"}
    return synthetic(folder / "runs", **(words | data | {"distill__options__prototypes__grid_size": 2} | others))


@pytest.fixture(scope="module")
def finished(folder):
    assert main(["run", QUICKSTART, *options(folder)]) == 0
    return folder / "runs" / "quickstart"


def test_no_file_of_a_run_says_what_the_policy_keeps_out(finished):
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert len(files) > 50
    found = {word: [str(path) for path in files if word in said(path)] for word in KEPT_OUT}
    assert found == dict.fromkeys(KEPT_OUT, [])
    # The search finds what may be said, wherever words are: captions, tokenizer, prompts, tiles, index and report.
    told = {path.name for path in files if b"reeds" in said(path)}
    assert {"captions.jsonl", "prototypes.nc", "distilled.nc", "index.gpkg", "report.html"} <= told
    assert any(name.startswith("tokenizer") or name.startswith("vocab") for name in told)
    assert any(name.endswith(".tif") for name in told)


def said(path):
    """All bytes of a file in lower case, and the texts that netCDF keeps compressed."""
    found = path.read_bytes()
    if path.suffix == ".nc":
        with xr.open_dataset(path, engine="h5netcdf") as table:
            found += repr([v.values.tolist() for v in table.variables.values() if v.dtype.kind in "OU"]).encode()
    return found.lower()


def test_prompts_come_from_the_captions_and_are_told_everywhere(finished):
    captions = Captions.load(next(finished.glob("*_captions")) / "captions.jsonl")
    assert captions.figures["scrubbed"] > 0 and len(captions) == 10
    made = DistilledSet.load(next(finished.glob("*_distill")) / "distilled.nc")
    assert all("tall reeds" in prompt for prompt in made.caption)
    assert made.manifest["captions"] == captions.provenance()
    page = (finished / "report.html").read_text()
    assert all(f"<li>{prompt}</li>" in page for prompt in made.caption)
    stages = [path.name[3:] for path in sorted(finished.glob("[0-9]*"))]
    assert stages[:5] == ["prepare", "captions", "codec", "encode", "teacher"]


def test_a_second_run_redoes_nothing_and_other_words_only_what_they_change(finished, folder, capsys):
    assert main(["run", QUICKSTART, *options(folder), "--dry-run"]) == 0
    assert "to do" not in capsys.readouterr().out
    before = (folder / "words.csv").read_text()
    try:
        write_captions(folder / "words.csv", ["A dark {name}"])
        assert main(["run", QUICKSTART, *options(folder), "--dry-run"]) == 0
    finally:
        (folder / "words.csv").write_text(before)
    todo = [line.split()[0][3:] for line in capsys.readouterr().out.splitlines() if "to do" in line]
    assert todo == [
        *("captions", "train", "prototypes", "candidates", "distill"),
        *("audit", "evaluate", "export", "report"),
    ]


def test_what_a_model_sums_up_is_scrubbed_under_the_policy_too(finished, folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "runs", tmp_path / "runs")
    monkeypatch.setattr(FileCaptioner, "can_write", True)
    says = "Tall reeds grow here. A runway, lighthouses and Lake Tahoe."
    monkeypatch.setattr(FileCaptioner, "writer", lambda *_: lambda request: says)
    words = options(folder, distill__options__aggregation__kind="llm") + ["--out", str(tmp_path / "runs")]
    Run(load_config(QUICKSTART, words)).pipeline.run("prototypes")
    (path,) = (tmp_path / "runs").rglob("prototypes.nc")
    told = said(path)
    assert b"tall reeds" in told and not [word for word in KEPT_OUT if word in told]


def test_the_template_alone_needs_no_stage(folder, tmp_path):
    def names(*more):
        plain = synthetic(tmp_path, data__classes="[forest, river]")
        return [stage.name for stage in Run(load_config(QUICKSTART, [*plain, *more])).pipeline.stages]

    assert "captions" not in names()
    assert "captions" in names("--captions.options.templates", "['A {name}', 'Land of {name}']")
    assert "captions" not in names("--distill.method", "random", "--captions.name", "attributes")


def test_mistakes_are_named(folder, tmp_path, capsys):
    def run(**others):
        return Run(load_config(QUICKSTART, options(folder, **others)))

    with pytest.raises(OptionError, match="'llm': captioner 'file' has no model that writes text"):
        run(distill__options__aggregation__kind="llm")
    with pytest.raises(PolicyError, match=r"captions\.options\.template says 'runway'"):
        run(captions__options__template="{name} beside a runway")
    guarded = tmp_path / "guarded.yaml"
    guarded.write_text(POLICY.replace("RIVER", "protect"))
    with pytest.raises(PolicyError, match="captioner 'file'"):
        run(data__policy=guarded, distill__options__prototypes__kind="kanonymous")
    assert main(["run", QUICKSTART, "--until", "captions", *options(folder, captions__name="flie")]) == EXIT_CODE
    assert "did you mean 'file'" in capsys.readouterr().err
