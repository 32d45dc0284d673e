"""Configs: YAML and command-line options to typed groups, and mistakes in them."""

import pytest
from helpers.miniature import CONFIGS

from rsdistill.errors import OptionError
from rsdistill.pipeline.config import load_config, merge_overrides, parse_config

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


def test_missing_file_is_named(tmp_path):
    with pytest.raises(OptionError, match=r"none\.yaml does not exist"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_named_like_their_file(path):
    assert load_config(path).name == path.stem
