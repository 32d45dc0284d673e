"""The command line: arguments and YAML to the same functions that a notebook calls; nothing else."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, NoReturn

from rsdistill.cli.doctor import add_doctor, add_init
from rsdistill.cli.listing import add_listing
from rsdistill.cli.policy import add_policy
from rsdistill.cli.run import add_run
from rsdistill.cli.sets import add_sets
from rsdistill.errors import EXIT_CODE, OptionError, RsdistillError, UnknownNameError
from rsdistill.registry import import_plugins
from rsdistill.utils.provenance import package_version

# Commands of earlier versions that listed something; those that ran up to a stage are told by the config after them.
_OLD_LISTS = ("captioners", "codecs", "datasets", "distillers", "presets", "students")
_TAKES_SETS = ("audit", "evaluate", "export")
_CONFIGS = (".yaml", ".yml")
_INTERRUPTED = 130
_BROKEN_PIPE = 141


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, and a code that the caller returns."""

    def error(self, message: str) -> NoReturn:
        """Refuse what was asked.

        Raises:
            OptionError: Always.
        """
        raise OptionError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``rsdistill`` command.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        Exit code: 0, 1 for faults found by ``validate`` and ``doctor`` or tiles that ``audit`` blocks, 2 for a mistake
        in what was asked, 130 if stopped, 141 if its output is read no longer.
    """
    _quiet()
    try:
        code = _carry_out(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except RsdistillError as error:
        print(f"rsdistill: {error}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("rsdistill: stopped; the same command continues where it was", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output, such as 'head', has had enough. Python's own flush at exit must not say so again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _carry_out(arguments: list[str]) -> int:
    parser, verbs = _parser()
    _answer_old(arguments, list(verbs.choices))
    options, rest = parser.parse_known_args(arguments)
    import_plugins(getattr(options, "plugins", ()))
    command: Callable[[argparse.Namespace, list[str]], int] = options.command
    return command(options, rest)


def _parser() -> tuple[argparse.ArgumentParser, Any]:
    parser = _Parser(
        prog="rsdistill",
        description="Distil a remote-sensing scene dataset into a few synthetic images per class.",
        epilog="Any option of a config can be given after it: rsdistill run CONFIG --group.option VALUE",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rsdistill {package_version()}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    plugins = _Parser(add_help=False, allow_abbrev=False)
    what = "module, or path of a .py file, that registers plug-ins; can be repeated"
    plugins.add_argument("--import", dest="plugins", action="append", default=[], metavar="MODULE", help=what)
    add_run(verbs, plugins)
    add_sets(verbs, plugins)
    add_listing(verbs, plugins)
    add_policy(verbs)
    add_doctor(verbs, plugins)
    add_init(verbs, plugins)
    return parser, verbs


def _answer_old(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Answer a command of an earlier version with today's, and one that never was with the nearest.

    Raises:
        OptionError: If the first argument is no command.
    """
    if not arguments or arguments[0].startswith("-"):
        return
    verb, following = arguments[0], arguments[1] if len(arguments) > 1 else ""
    config = PurePath(following).suffix.lower() in _CONFIGS
    if config and (verb in _TAKES_SETS or verb not in known):
        raise OptionError(f"'rsdistill {verb} {following}' is now 'rsdistill run {following} --until {verb}'")
    if verb in _OLD_LISTS:
        raise OptionError(f"'rsdistill {verb}' is now 'rsdistill list {verb}'")
    if verb not in known:
        raise UnknownNameError("command", verb, known)


def _quiet() -> None:
    """Warnings in one line each, and no chatter of libraries that are not at fault."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("lightning").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    warnings.showwarning = show
