"""The command line: old spellings, mistakes, listings, help, doctor, init; nothing here trains."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from helpers.export_samples import make_set
from pydantic import Field

import rsdistill.cli
from rsdistill.cli.main import main
from rsdistill.errors import EXIT_CODE
from rsdistill.pipeline.config import RunConfig
from rsdistill.utils.options import describe_options


def refused(capsys, *arguments):
    """The one line that a mistake is answered with."""
    assert main(list(arguments)) == EXIT_CODE
    answer = capsys.readouterr().err
    assert answer.startswith("rsdistill: ") and answer.count("\n") == 1
    return answer


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train mine.yaml", "'rsdistill run mine.yaml --until train'"),
        ("codec mine.yml --data.size 32", "'rsdistill run mine.yml --until codec'"),
        ("audit mine.yaml", "'rsdistill run mine.yaml --until audit'"),
        ("export mine.yaml", "'rsdistill run mine.yaml --until export'"),
        ("distillers", "'rsdistill list distillers'"),
    ],
)
def test_old_commands_are_answered_with_the_new_ones(capsys, old, new):
    assert new in refused(capsys, *old.split())


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        ("lsit", "unknown command 'lsit': did you mean 'list'?"),
        ("run", "a config is missing"),
        ("run a.yaml b.yaml", "'b.yaml' is not understood"),
        ("list metricks", "did you mean 'metrics'?"),
        ("list metrics more", "argument 'more' is not understood"),
        ("export set.nc", "required: --out"),
        ("list --import nowhere_at_all", "plug-in 'nowhere_at_all' cannot be imported"),
        ("export no.nc --out x", "no.nc does not exist"),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, mistake, answer):
    assert answer in refused(capsys, *mistake.split())


def test_the_config_may_stand_anywhere(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {name: synthetic}\n")
    given = ["run", "--distill.method", "herding", str(path), "--codec.name=spectral"]
    assert main([*given, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Options of codec 'spectral'" in shown and "Options of distiller 'herding'" in shown
    assert "(given: -5)" in refused(capsys, *given, "--export.origin", "-5")


def test_an_imported_file_is_listed_and_its_options_shown(capsys, tmp_path):
    from rsdistill.evaluation import METRICS

    path = tmp_path / "my_metric_file.py"
    path.write_text(
        "from rsdistill.evaluation import METRICS\n"
        "METRICS.register('mine', summary='one of my own')(lambda labels, predictions, classes: 1.0)\n"
    )
    with METRICS.temporary():
        assert main(["list", "metrics", "--import", str(path)]) == 0
        assert "mine   one of my own" in capsys.readouterr().out


def test_options_of_a_group_are_shown_by_name_type_default_and_meaning(capsys):
    assert main(["options", "trainer"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["option", "values", "default", "meaning"]
    assert any(line.split()[:6] == ["trainer.num_nodes", "whole", "number,", "at", "least", "1"] for line in lines)


def test_options_of_plug_ins_by_kind_and_unknown_ones(capsys):
    assert main(["options", "codecs:kl"]) == 0
    shown = capsys.readouterr().out
    assert "latent_channels" in shown and "loss.error" in shown and "bands.sensor" not in shown
    assert "did you mean 'herding'" in refused(capsys, "options", "herdin")
    assert "unknown kind of plug-in" in refused(capsys, "options", "nothing:kl")


@dataclass(frozen=True)
class Inner:
    """A group.

    Attributes:
        weight: Weight of
            the term.
    """

    weight: Annotated[float, Field(ge=0, lt=1)] = 0.5


class Plugin:
    """A plug-in.

    Args:
        name: Its ``name``; see :func:`nothing`.
        inner: The group.
        maybe: The group, or None.
    """

    def __init__(self, name: str, inner: Inner = Inner(0.25), maybe: Inner | None = None, **more: int) -> None:
        self.name, self.inner, self.maybe = name, inner, maybe


def test_options_describe_themselves():
    rows = [(row.name, row.type, row.default, row.meaning) for row in describe_options(Plugin, "p")]
    assert rows == [
        ("p.name", "text", "required", "Its 'name'; see 'nothing'."),
        ("p.inner.weight", "number, at least 0, below 1", "0.25", "Weight of the term."),
        ("p.maybe", "a group of options, or none", "none", "The group, or None."),
        ("p.maybe.weight", "number, at least 0, below 1", "0.5", "Weight of the term."),
    ]
    assert [row.name for row in describe_options(Plugin, given=("name", "maybe"))] == ["inner.weight"]


def test_defaults_made_anew_are_shown():
    @dataclass
    class Lists:
        """None."""

        names: list[str] = field(default_factory=lambda: ["a"])

    assert [(row.type, row.default) for row in describe_options(Lists)] == [("list of text", "[a]")]


def test_init_writes_a_config_once(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my chips").mkdir()
    assert main(["init", "my chips", "--out", "mine.yaml"]) == 0
    from rsdistill.pipeline.config import load_config

    config = load_config("mine.yaml")
    assert (config.name, config.data.name, config.data.root) == ("my-chips", "folder", "my chips")
    assert yaml.safe_load(Path("mine.yaml").read_text())["data"]["options"] == {"gsd": 1.0}
    capsys.readouterr()
    assert "is not overwritten" in refused(capsys, "init", "my chips", "--out", "mine.yaml")
    assert "is no folder" in refused(capsys, "init", "no chips")


def test_doctor_tells_when_peft_does_not_fit(capsys, monkeypatch):
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "99.0", raising=False)
    assert main(["doctor"]) == 1
    assert "asks for peft 99.0 or later" in capsys.readouterr().out
    monkeypatch.delattr("transformers.integrations.peft.MIN_PEFT_VERSION")
    assert main(["doctor"]) == 0
    assert "transformers and peft fit each other" in capsys.readouterr().out


def test_export_and_validate_a_set(capsys, tmp_path):
    path, out = make_set(4).save(tmp_path / "set.nc"), tmp_path / "tiles"
    assert main(["validate", str(path)]) == 0
    assert main(["export", str(path), "--out", str(out), "--format", "geoparquet"]) == 0
    assert (out / "index.parquet").is_file()
    assert main(["validate", str(out)]) == 0
    (out / "index.parquet").unlink()
    assert main(["validate", str(out)]) == 1
    assert "index.parquet: is missing" in capsys.readouterr().out


def test_no_method_is_named_in_the_command_line():
    stages = {"prepare", "codec.fit", "encode", "teacher", "train", "prototypes", "distill", "screen"}
    # A group of options may have the name of a stage.
    stages -= {group.name for group in fields(RunConfig)}
    for path in Path(rsdistill.cli.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "dpd" not in text and "aggregation" not in text, path
        words = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        assert not words & stages, path
