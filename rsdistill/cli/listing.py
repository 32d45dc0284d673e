"""``rsdistill list KIND`` and ``rsdistill options NAME``: what there is to choose from, and its options."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from rsdistill.errors import OptionError, UnknownNameError
from rsdistill.registry import Registry
from rsdistill.utils.options import OptionHelp, describe_options

# Kinds of plug-ins: where each one's registry lies.
KINDS = {
    "datasets": ("rsdistill.datasets", "DATASETS"),
    "codecs": ("rsdistill.codecs", "CODECS"),
    "captioners": ("rsdistill.captions", "CAPTIONERS"),
    "distillers": ("rsdistill.distillers", "DISTILLERS"),
    "students": ("rsdistill.models.networks", "STUDENTS"),
    "metrics": ("rsdistill.evaluation", "METRICS"),
    "export_formats": ("rsdistill.export", "EXPORT_FORMATS"),
}
# Arguments that the run or the data gives, not the user, by the registry's kind.
GIVEN: dict[str, tuple[str, ...]] = {
    "codec": ("bands",),
    "student": ("bands", "classes", "size"),
    "metric": ("labels", "predictions", "classes"),
    "export format": ("tiles", "folder"),
}
_PRESETS = "presets"
_WIDEST, _NARROWEST_MEANING = 34, 36
_GAP = "  "


def registry(kind: str) -> Registry[Any]:
    """The registry of a kind, by its name in the plural."""
    module, name = KINDS[kind]
    found: Registry[Any] = getattr(importlib.import_module(module), name)
    return found


def option_table(rows: Sequence[OptionHelp]) -> str:
    """Options as plain text, as wide as the terminal."""
    cells = [("option", "values", "default", "meaning"), *(dataclasses.astuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    widths[1:] = [min(width, _WIDEST) for width in widths[1:]]
    left = shutil.get_terminal_size((120, 24)).columns - sum(widths) - 3 * len(_GAP)
    widths.append(max(left, _NARROWEST_MEANING))
    lines: list[str] = []
    for row in cells:
        wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, wrapped))):
            parts = [part[number] if number < len(part) else "" for part in wrapped]
            lines.append(_GAP.join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip())
    return "\n".join(lines)


def add_verb(verbs: Any, name: str, summary: str, command: Any, **options: Any) -> argparse.ArgumentParser:
    """Add a command to a parser's commands.

    Args:
        verbs: The parser's commands.
        name: Its name.
        summary: One line for ``--help``.
        command: Takes the parsed arguments and those that were not understood, and returns the exit code.
        **options: Further arguments of argparse's ``add_parser``.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=summary, allow_abbrev=False, **options)
    parser.set_defaults(command=command)
    return parser


def add_listing(verbs: Any, plugins: argparse.ArgumentParser) -> None:
    """Add the commands to a parser's commands."""
    listing = add_verb(verbs, "list", "list the plug-ins of a kind", _list, parents=[plugins])
    listing.add_argument("kind", nargs="?", help=f"one of {', '.join([*KINDS, _PRESETS])}; all kinds unless given")
    summary = "every option of a config's group or of a plug-in: type, default and meaning"
    options = add_verb(verbs, "options", summary, _options, parents=[plugins])
    options.add_argument(
        "name", nargs="?", help="group of a config, plug-in, or KIND:NAME where plug-ins share a name; all unless given"
    )


def refuse(rest: Sequence[str], verb: str = "") -> None:
    """Refuse arguments that a command does not know.

    Raises:
        OptionError: If there are any.
    """
    if rest:
        raise OptionError(f"argument '{rest[0]}' is not understood; see {f'rsdistill {verb}'.strip()} --help")


def _list(options: argparse.Namespace, rest: list[str]) -> int:
    refuse(rest, "list")
    kinds = [*KINDS, _PRESETS]
    if options.kind is not None and options.kind not in kinds:
        raise UnknownNameError("kind of plug-in", options.kind, kinds)
    if options.kind is None:
        print("\n".join(f"rsdistill list {kind}" for kind in kinds))
        return 0
    entries = list(_entries(options.kind))
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        print(f"{entry.name:{width}}  {entry.summary}" + (f" ({entry.source})" if entry.source else ""))
    return 0


def _entries(kind: str) -> Any:
    if kind == _PRESETS:
        from rsdistill.diffusion.presets import list_presets

        return list_presets()
    return registry(kind)


def _options(options: argparse.Namespace, rest: list[str]) -> int:
    refuse(rest, "options")
    groups = _groups()
    if options.name is None:
        print(f"{'groups':15} {', '.join(groups)}")
        for kind in KINDS:
            print(f"{kind:15} {', '.join(registry(kind).names())}")
        print("\nrsdistill options NAME, or KIND:NAME such as datasets:folder")
    elif options.name in groups:
        print(option_table(describe_options(groups[options.name], options.name)))
    else:
        print(_plugin_options(options.name, groups))
    return 0


def _groups() -> dict[str, Any]:
    """Groups of a config by name."""
    import typing

    from rsdistill.pipeline.config import RunConfig

    hints = typing.get_type_hints(RunConfig)
    options = [item.name for item in dataclasses.fields(RunConfig) if item.init]
    candidates = {name: (hints[name], *typing.get_args(hints[name])) for name in options}
    found = {name: [part for part in parts if dataclasses.is_dataclass(part)] for name, parts in candidates.items()}
    return {name: parts[0] for name, parts in found.items() if parts}


def _plugin_options(name: str, groups: dict[str, Any]) -> str:
    """Options of a plug-in as a table.

    Raises:
        UnknownNameError: If nothing has the name.
        OptionError: If plug-ins of several kinds have it.
    """
    kind, colon, plain = name.rpartition(":")
    if colon and _plural(kind) not in KINDS:
        raise UnknownNameError("kind of plug-in", kind, KINDS)
    kinds = [_plural(kind)] if colon else [known for known in KINDS if plain in registry(known).names()]
    if not kinds:
        raise UnknownNameError(
            "group or plug-in", name, {*groups, *(n for known in KINDS for n in registry(known).names())}
        )
    if len(kinds) > 1:
        ways = " or ".join(f"{known}:{plain}" for known in kinds)
        raise OptionError(f"several plug-ins are named '{plain}'; write {ways}")
    entry, owner = registry(kinds[0]).get(plain), registry(kinds[0])
    rows = describe_options(entry.factory, given=GIVEN.get(owner.kind, ()))
    return f"{owner.kind} '{plain}': {entry.summary}\n\n{option_table(rows) if rows else 'no options'}"


def _plural(kind: str) -> str:
    return kind if kind.endswith("s") else f"{kind}s"
