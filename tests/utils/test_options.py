"""Options and plug-ins by name: every mistake is named by its dotted path, with the nearest valid name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from rsdistill.errors import OptionError, UnknownNameError
from rsdistill.registry import Registry
from rsdistill.utils.options import parse_arguments, parse_options, plain


@dataclass(frozen=True)
class Inner:
    scale: Annotated[float, Field(ge=0)] = 1.0
    kind: Literal["mean", "median"] = "mean"


@dataclass(frozen=True)
class Middle:
    steps: Annotated[int, Field(ge=1)] = 10
    inner: Inner = field(default_factory=Inner)
    limits: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    name: str
    middle: Middle | None = None


class Plugin:
    def __init__(self, width: Annotated[int, Field(ge=8)] = 8, sides: Sequence[int] = (1, 2), inner: Inner = Inner()):
        self.width, self.sides, self.inner = width, sides, inner


def test_nested_mappings_become_dataclasses():
    parsed = parse_options(Outer, {"name": "a", "middle": {"steps": 3, "inner": {"kind": "median"}, "limits": [0, 2]}})
    assert parsed == Outer("a", Middle(3, Inner(kind="median"), (0.0, 2.0)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "a"}, "unknown option 'nam': did you mean 'name'?"),
        ({"name": "a", "middle": {"step": 3}}, "unknown option of middle 'step': did you mean 'steps'?"),
        (
            {"name": "a", "middle": {"inner": {"scael": 3}}},
            "unknown option of middle.inner 'scael': did you mean 'scale'?",
        ),
        ({"name": "a", "middle": {3: 3}}, "unknown option of middle '3'"),
    ],
)
def test_unknown_keys_name_the_nearest_at_every_depth(values, message):
    with pytest.raises(UnknownNameError) as caught:
        parse_options(Outer, values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": 3}, r"option name: .*string.*given: 3"),
        ({"name": "a", "middle": {"steps": "many"}}, r"option middle\.steps: .*integer.*given: 'many'"),
        ({"name": "a", "middle": {"steps": 0}}, r"option middle\.steps: .*greater than or equal to 1.*given: 0"),
        ({"name": "a", "middle": {"inner": {"scale": -1}}}, r"option middle\.inner\.scale: .*given: -1"),
        ({"name": "a", "middle": {"inner": {"kind": "mode"}}}, r"option middle\.inner\.kind: .*'mean' or 'median'"),
        ({"name": "a", "middle": {"limits": [0, "x"]}}, r"option middle\.limits\[1\]: "),
        ({"name": "a", "middle": {"inner": 3}}, r"option middle\.inner must be a group of options such as"),
        ({}, r"options: missing .*'name'"),
    ],
)
def test_wrong_values_are_named_by_their_path(values, message):
    with pytest.raises(OptionError, match=message):
        parse_options(Outer, values)


@pytest.mark.parametrize("values", [3, [1], None, "steps"])
def test_a_group_of_options_must_be_a_mapping(values):
    with pytest.raises(OptionError, match="option train must be a group of options"):
        parse_options(Middle, values, "train")


def test_arguments_of_a_plugin_are_checked_against_its_signature():
    assert parse_arguments(Plugin, {"width": "16", "inner": {"scale": 2}}, "x") == {"width": 16, "inner": Inner(2.0)}
    given = Inner(4.0)
    assert parse_arguments(Plugin, {"inner": given}, "x")["inner"] is given
    with pytest.raises(UnknownNameError, match=r"unknown option of x 'widht': did you mean 'width'"):
        parse_arguments(Plugin, {"widht": 16}, "x")
    with pytest.raises(OptionError, match=r"option x\.width: .*given: 4"):
        parse_arguments(Plugin, {"width": 4}, "x")
    with pytest.raises(OptionError, match=r"option x\.sides\[1\]: "):
        parse_arguments(Plugin, {"sides": [1, "b"]}, "x")


def test_a_plugin_that_takes_any_keyword_is_not_refused():
    def free(first: int = 1, **more):
        return first, more

    assert parse_arguments(free, {"first": "2", "other": [3]}, "free") == {"first": 2, "other": [3]}


def test_plain_gives_what_json_keeps():
    assert plain(Outer("a", Middle())) == {
        "name": "a",
        "middle": {"steps": 10, "inner": {"scale": 1.0, "kind": "mean"}, "limits": [0.0, 1.0]},
    }
    assert plain({"a": (1, None)}) == {"a": [1, None]}


@pytest.fixture
def plugins():
    registry = Registry("plugin", "rsdistill.errors")
    registry.register("wide", summary="a wide one", source="a paper")(Plugin)
    return registry


def test_a_registered_plugin_is_built_by_name(plugins):
    assert plugins.create("wide", width=24).width == 24
    assert plugins.names() == ["wide"]
    (entry,) = plugins
    assert (entry.name, entry.summary, entry.source) == ("wide", "a wide one", "a paper")
    assert entry.options() == ["width", "sides", "inner"]


def test_unknown_plugins_and_options_name_the_nearest(plugins):
    with pytest.raises(UnknownNameError, match="unknown plugin 'wid': did you mean 'wide'"):
        plugins.create("wid")
    with pytest.raises(UnknownNameError, match=r"unknown option of plugin\.wide 'with': did you mean 'width'"):
        plugins.create("wide", **{"with": 8})
    with pytest.raises(UnknownNameError, match=r"option of run\.plugin\.inner 'scal'"):
        plugins.parse("wide", {"inner": {"scal": 1}}, "run.plugin")


def test_a_name_is_taken_once(plugins):
    plugins.register("wide", summary="the same again")(Plugin)
    with pytest.raises(OptionError, match="'wide' is already registered"):
        plugins.register("wide", summary="another")(Inner)


@pytest.mark.parametrize("option", ["steps", "batch", "latent_channels", "lr"])
def test_codec_options_have_ranges(option):
    from rsdistill.bands import get_bands
    from rsdistill.codecs import create_codec

    with pytest.raises(OptionError, match=rf"option codec\.kl\.{option}: "):
        create_codec("kl", get_bands("rgb"), **{option: 0})


def test_method_options_are_checked_at_every_depth():
    from rsdistill.distillers import create_distiller

    with pytest.raises(UnknownNameError, match=r"distiller\.dpd\.sampling\.guidance 'scal': did you mean 'scale'"):
        create_distiller("dpd", sampling={"guidance": {"scal": 1}})
    with pytest.raises(OptionError, match=r"option distiller\.dpd\.candidates: "):
        create_distiller("dpd", candidates=0)
    with pytest.raises(UnknownNameError, match="unknown distiller 'kmean': did you mean 'kmeans'"):
        create_distiller("kmean")


@dataclass(frozen=True)
class Renewed:
    RENAMED: ClassVar[dict[str, str]] = {"max_laps": "max_epochs", "heat": "nothing measured gained by it"}
    max_epochs: float = 1.0


class RenewedPlugin:
    RENAMED: ClassVar[dict[str, str]] = {"cells": "grid_size"}

    def __init__(self, grid_size: int = 8, training: Renewed = Renewed()) -> None:
        self.grid_size, self.training = grid_size, training


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cells": 2}, "option distill.options.cells is now grid_size; rename it"),
        ({"training": {"max_laps": 2}}, "option distill.options.training.max_laps is now max_epochs; rename it"),
        (
            {"training": {"heat": 2}},
            "option distill.options.training.heat was removed: nothing measured gained by it; leave it out",
        ),
    ],
)
def test_old_names_are_answered_with_the_new_ones(values, message):
    with pytest.raises(OptionError) as caught:
        parse_arguments(RenewedPlugin, values, "distill.options")
    assert str(caught.value) == message


def test_new_names_pass_and_unknown_ones_still_name_the_nearest():
    assert parse_options(Renewed, {"max_epochs": 2}) == Renewed(2.0)
    with pytest.raises(UnknownNameError, match="did you mean 'max_epochs'"):
        parse_options(Renewed, {"max_epoch": 2})
