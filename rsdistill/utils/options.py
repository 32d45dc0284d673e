"""Typed options: plain mappings from YAML and the command line to dataclasses and arguments.

Types and ranges are pydantic's business; naming the option at fault, by its dotted path and with
the nearest valid name, is ours.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from rsdistill.errors import OptionError, UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class TrainerOptions:
    """Where and how training runs; the same fields as Lightning's Trainer.

    Attributes:
        accelerator: ``auto``, ``cpu``, ``gpu``, ``mps`` or another that Lightning knows.
        devices: Number of devices, or ``auto``.
        num_nodes: Number of machines.
        strategy: ``auto``, ``ddp``, ``fsdp`` or another that Lightning knows.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        checkpoint_seconds: Time between checkpoints.
        progress: Whether to show progress bars.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: Annotated[int, Field(ge=1)] = 1
    strategy: str = "auto"
    precision: str = "32-true"
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    progress: bool = True


def parse_options(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass of options from a mapping.

    Fields that are dataclasses themselves are built from nested mappings. The dataclass may have a class variable
    ``RENAMED``, a mapping from old names of options to the new ones or, for options that are gone, to the reason
    in words; old names are then answered with it.

    Args:
        kind: The dataclass.
        values: Option names to values.
        where: Dotted path of the mapping, for messages.

    Raises:
        UnknownNameError: If a name is no field; it names the nearest one.
        OptionError: If a value has the wrong type, is out of range or is missing, or a name is an old one.
    """
    _require_mapping(values, where)
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [field.name for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    _refuse_renamed(values, kind, names, where)
    _refuse_unknown(values, names, where)
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        parsed[name] = _parse_value(hints[name], value, _join(where, name))
    try:
        return kind(**parsed)
    except TypeError as error:
        raise OptionError(f"{where or 'options'}: {_missing(error)}", where) from error
    except OptionError as error:
        error.option = error.option or where
        raise


def parse_arguments(factory: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check keyword arguments for a plug-in's constructor against its signature and types.

    Args:
        factory: The class or function; its ``RENAMED``, if it has one, is used as in :func:`parse_options`.
        values: Argument names to values.
        where: What they are options of, for messages.

    Returns:
        The arguments, brought to their types.

    Raises:
        UnknownNameError: If a name is no argument; it names the nearest one.
        OptionError: If a value has the wrong type or is out of range, or a name is an old one.
    """
    _require_mapping(values, where)
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(target, include_extras=True)
    parameters = inspect.signature(factory).parameters
    _refuse_renamed(values, factory, list(parameters), where)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        _refuse_unknown(values, list(parameters), where)
    return {
        name: _parse_value(hints[name], value, _join(where, name)) if name in hints else value
        for name, value in values.items()
    }


def plain(value: Any) -> Any:
    """Options as plain JSON types: dataclasses to mappings, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value) if item.init}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _parse_value(hint: Any, value: Any, where: str) -> Any:
    nested: Any = next((part for part in _union(hint) if dataclasses.is_dataclass(part)), None)
    if nested is not None and isinstance(value, Mapping):
        return parse_options(nested, value, where)
    if nested is not None and isinstance(value, nested):
        return value
    if nested is not None and (value is not None or type(None) not in _union(hint)):
        _require_mapping(value, where, nested)
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inner = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        raise OptionError(f"option {where}{inner}: {first['msg']} (given: {value!r})", where + inner) from error


def _require_mapping(values: Any, where: str, kind: Callable[..., Any] | None = None) -> None:
    """Refuse what is no group of options; the first option of ``kind`` shows what one looks like."""
    if isinstance(values, Mapping):
        return
    example = ""
    if kind is not None:
        first = describe_options(kind)[0]
        example = f" such as {{{first.name}: {first.default}}}"
    raise OptionError(f"option {where or 'config'} must be a group of options{example}, not {values!r}", where)


def _refuse_renamed(values: Mapping[str, Any], kind: Any, names: list[str], where: str) -> None:
    renamed: Mapping[str, str] = getattr(kind, "RENAMED", {})
    for name in values:
        if name not in renamed or name in names:
            continue
        answer, option = renamed[name], _join(where, name)
        if " " in answer:
            raise OptionError(f"option {option} was removed: {answer}; leave it out", option)
        raise OptionError(f"option {option} is now {answer}; rename it", option)


def _refuse_unknown(values: Mapping[str, Any], names: list[str], where: str) -> None:
    for name in values:
        if name not in names:
            kind = f"option of {where}" if where else "option"
            raise UnknownNameError(kind, str(name), names, _join(where, name))


def _missing(error: TypeError) -> str:
    text = str(error).split("missing ", 1)[-1]
    return f"missing {text}" if text != str(error) else text


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


@dataclass(frozen=True)
class OptionHelp:
    """One option as help shows it.

    Attributes:
        name: Dotted name.
        type: What its values are, in words.
        default: Its default as written in YAML; ``required`` where there is none.
        meaning: What it does, from the docstring.
    """

    name: str
    type: str
    default: str
    meaning: str


def describe_options(factory: Callable[..., Any], prefix: str = "", given: Collection[str] = ()) -> list[OptionHelp]:
    """All options of a dataclass, or of a plug-in's class or function; nested groups are flattened.

    Args:
        factory: The dataclass, class or function; its docstring's Args or Attributes say what each option means.
        prefix: Dotted path that stands before each name.
        given: Arguments that are not the user's to set, left out.

    Returns:
        The options in the order of the signature.
    """
    return list(_described(factory, prefix, inspect.Parameter.empty, given))


def _described(
    factory: Callable[..., Any], prefix: str, instance: Any, given: Collection[str] = ()
) -> Iterator[OptionHelp]:
    """Options of a factory; defaults are those of ``instance`` where a group's default is one."""
    hints, meanings = _hints(factory), _meanings(factory)
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.name in given or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        name, hint = _join(prefix, parameter.name), hints.get(parameter.name, Any)
        default = _default(factory, parameter)
        if dataclasses.is_dataclass(factory) and instance is not inspect.Parameter.empty and instance is not None:
            default = getattr(instance, parameter.name)
        group = next((part for part in _union(hint) if dataclasses.is_dataclass(part)), None)
        if group is None or default is None:
            words = _in_words(hint) if group is None else "a group of options, or none"
            yield OptionHelp(name, words, _yaml(default), meanings.get(parameter.name, ""))
        if group is not None:
            yield from _described(group, name, default)  # type: ignore[arg-type]


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    by_fields = dataclasses.is_dataclass(factory) or not inspect.isclass(factory)
    target = factory if by_fields else factory.__init__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError):
        return {}


def _default(factory: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Default of a parameter; that of a dataclass may be made anew for each instance."""
    if dataclasses.is_dataclass(factory):
        for item in dataclasses.fields(factory):
            if item.name == parameter.name and item.default_factory is not dataclasses.MISSING:
                return item.default_factory()
    return parameter.default


def _meanings(factory: Callable[..., Any]) -> dict[str, str]:
    """What docstrings say of each option, those of base classes included."""
    from docstring_parser import DocstringStyle, parse

    owners: list[Any] = [factory]
    if inspect.isclass(factory):
        owners = [owner for kind in factory.__mro__ for owner in (kind, vars(kind).get("__init__"))]
    meanings: dict[str, str] = {}
    for owner in owners:
        for found in parse(getattr(owner, "__doc__", None) or "", DocstringStyle.GOOGLE).params:
            # The markup of the API pages is no help at a terminal.
            text = re.sub(r":\w+:`~?([^`]+)`", r"'\1'", " ".join((found.description or "").split()))
            meanings.setdefault(found.arg_name, text.replace("``", "'"))
    return meanings


_SCALARS = {
    bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any value", type(None): "none"
}  # fmt: skip
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _union(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type; the type itself where there is one."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _union(typing.get_args(hint)[0])
    return typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)


def _in_words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return ", ".join([_in_words(inner[0]), *_limits(hint)])
    if origin in (typing.Union, types.UnionType):
        # None comes last, however the type is written.
        return " or ".join(_in_words(part) for part in sorted(inner, key=lambda part: part is type(None)))
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin in (tuple, list) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        many = origin is not tuple or Ellipsis in inner
        return f"list of {_in_words(inner[0])}" if many else f"{len(inner)} values: {_in_words(inner[0])}"
    if origin is dict or (inspect.isclass(origin) and issubclass(origin, Mapping)) or hint is dict:
        return "values by name"
    return _SCALARS.get(hint) or str(getattr(hint, "__name__", hint))


def _limits(hint: Any) -> Iterator[str]:
    for note in typing.get_args(hint)[1:]:
        for limit in getattr(note, "metadata", (note,)):
            yield from (f"{words} {getattr(limit, key):g}" for key, words in _LIMITS.items() if hasattr(limit, key))
            if getattr(limit, "min_length", 0):
                yield f"{limit.min_length} or more"


def _yaml(value: Any) -> str:
    """A default as it would be written in a config."""
    if value is inspect.Parameter.empty:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)
