"""Configs: YAML and command-line options to typed groups, and mistakes in them."""

import pytest
from helpers.miniature import CONFIGS

from rsdistill.errors import OptionError
from rsdistill.pipeline.config import load_config, merge_overrides, parse_config
from rsdistill.pipeline.setup import Setup
from rsdistill.utils.options import plain

MINIMAL = {"data": {"name": "synthetic"}}


def test_override_reaches_any_depth_and_is_read_as_yaml(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text("data: {name: synthetic}\ndistill: {ipc: 3}\n")
    config = load_config(
        path, ["--distill.options.training.steps", "7", "--data.classes=[river, beach]", "--data.root", "a b/ü"]
    )
    assert config.name == "trial"
    assert config.distill.ipc == 3
    assert config.distill.options == {"training": {"steps": 7}}
    assert config.data.classes == ("river", "beach")
    assert config.data.root == "a b/ü"


def test_overrides_leave_the_given_values_alone():
    values = {"a": {"b": 1}}
    assert merge_overrides(values, ["--a.b", "2"]) == {"a": {"b": 2}}
    assert values == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--distill.ipcc", "3"], "unknown option of distill 'ipcc': did you mean 'ipc'"),
        (["--distil.ipc", "3"], "did you mean 'distill'"),
        (["--distill.ipc", "none"], "distill.ipc"),
        (["--distill.ipc", "0"], "distill.ipc"),
        (["--distill.seeds", "[]"], "distill.seeds"),
        (["--distill.ipc"], "needs a value"),
        (["distill.ipc", "3"], "options look like"),
        (["--data", "3"], "data"),
        (["--data.name.x", "3"], "is a value, not a group"),
        (["--name", "../x"], "no folder name"),
    ],
)
def test_mistakes_name_the_option(overrides, message):
    with pytest.raises(OptionError, match=message):
        parse_config(merge_overrides(MINIMAL, overrides))


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2]", "groups of options"), ("a: [", r"line \d"), ("name: x", "data")]
)
def test_files_that_are_no_config_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        load_config(path)


FILE = """\
data:
  name: synthetic
  size: 16
codec:
  name: kl
  options: {patch: 4, block_channels: [64]}
distill:
  method: herding
  ipc: 2
evaluation:
  recipe:
    student_options: {blocks: 3}
    steps: 4
trainer: {accelerator: cpu, progress: false}
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ipc: 2", "ipcc: 2", "line 9: unknown option of distill 'ipcc': did you mean 'ipc'"),
        ("ipc: 2", "ipc: none", "line 9: option distill.ipc: "),
        ("  name: synthetic", "  scheme: published", "line 1: data: missing"),
        ("trainer:", "trianer:", "line 14: unknown option 'trianer': did you mean 'trainer'"),
        ("patch", "pacth", "line 6: unknown option of codec.options 'pacth': did you mean 'patch'"),
        ("[64]", "[64, x]", r"line 6: option codec.options.block_channels[1]: "),
        ("name: synthetic", "name: synthetics", "line 2: unknown dataset 'synthetics': did you mean 'synthetic'"),
        ("size: 16", "size: 18", "line 3: option data.size 18: codec and method need a multiple of 4"),
        ("name: kl", "name: k", "line 5: unknown codec 'k'"),
        ("herding", "hreding", "line 8: unknown distiller 'hreding': did you mean 'herding'"),
        ("    steps: 4", "    stepz: 4", "line 13: unknown option of evaluation.recipe 'stepz'"),
        ("    steps: 4", "    student: convnets", "line 13: unknown student 'convnets': did you mean 'convnet'"),
        ("    steps: 4", "    steps: 0", "line 13: option evaluation.recipe.steps: "),
        ("blocks", "blocs", "line 12: unknown option of evaluation.recipe.student_options 'blocs'"),
    ],
)
def test_mistakes_in_a_file_name_its_line(tmp_path, before, after, message):
    path = tmp_path / "x.yaml"
    path.write_text(FILE.replace(before, after, 1))
    with pytest.raises(OptionError) as caught:
        Setup(load_config(path))
    assert str(caught.value).startswith(f"{path}, {message}")


def test_mistakes_of_the_command_line_name_no_line(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(FILE)
    for overrides in (["--distill.ipc", "none"], ["--codec.options={patch: x}"], ["--data.name", "synthetics"]):
        with pytest.raises(OptionError) as caught:
            Setup(load_config(path, overrides))
        assert "line" not in str(caught.value)


def test_where_a_config_was_read_is_no_option(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(FILE)
    assert "file" not in plain(load_config(path))
    with pytest.raises(OptionError, match="unknown option 'file'"):
        load_config(path, ["--file", "x"])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(OptionError, match=r"none\.yaml does not exist"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_named_like_their_file(path):
    assert load_config(path).name == path.stem
