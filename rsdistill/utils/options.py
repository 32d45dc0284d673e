"""Typed options: plain mappings from YAML and the command line to dataclasses and arguments.

Types and ranges are pydantic's business; naming the option at fault, by its dotted path and with
the nearest valid name, is ours.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
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
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    _refuse_renamed(values, kind, names, where)
    _refuse_unknown(values, names, where)
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        parsed[name] = _parse_value(hints[name], value, _join(where, name))
    try:
        return kind(**parsed)
    except TypeError as error:
        raise OptionError(f"{where or 'options'}: {_missing(error)}") from error


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
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _parse_value(hint: Any, value: Any, where: str) -> Any:
    candidates = (hint, *typing.get_args(hint))
    nested: Any = next((h for h in candidates if dataclasses.is_dataclass(h)), None)
    if nested is not None and isinstance(value, Mapping):
        return parse_options(nested, value, where)
    if nested is not None and isinstance(value, nested):
        return value
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inner = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        raise OptionError(f"option {where}{inner}: {first['msg']} (given: {value!r})") from error


def _require_mapping(values: Any, where: str) -> None:
    if not isinstance(values, Mapping):
        raise OptionError(f"option {where or 'config'} must be a group of options, not {values!r}")


def _refuse_renamed(values: Mapping[str, Any], kind: Any, names: list[str], where: str) -> None:
    renamed: Mapping[str, str] = getattr(kind, "RENAMED", {})
    for name in values:
        if name not in renamed or name in names:
            continue
        answer, option = renamed[name], _join(where, name)
        if " " in answer:
            raise OptionError(f"option {option} was removed: {answer}; leave it out")
        raise OptionError(f"option {option} is now {answer}; rename it")


def _refuse_unknown(values: Mapping[str, Any], names: list[str], where: str) -> None:
    for name in values:
        if name not in names:
            raise UnknownNameError(f"option of {where}" if where else "option", str(name), names)


def _missing(error: TypeError) -> str:
    text = str(error).split("missing ", 1)[-1]
    return f"missing {text}" if text != str(error) else text


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
