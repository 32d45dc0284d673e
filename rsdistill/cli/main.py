"""The command line: arguments and YAML to the same functions that a notebook calls; nothing else."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsdistill.cli.policy import add_policy
from rsdistill.errors import EXIT_CODE, OptionError, RsdistillError
from rsdistill.utils.provenance import package_version

if TYPE_CHECKING:
    from rsdistill.pipeline.engine import StageState
    from rsdistill.pipeline.stages import Run

STAGES = {
    "prepare": "read, check, resample and split the dataset",
    "captions": "put the train chips into words (where captions.name is more than the class's name)",
    "codec": "fit the codec between chips and latents",
    "encode": "cache the latents",
    "teacher": "train the latent teacher",
    "train": "train the diffusion model",
    "observers": "train the networks that refined tiles are matched by (where distill.options.refinement.steps is set)",
    "prototypes": "find the prototypes",
    "distill": "make the distilled sets",
    "screen": "replace what looks like an excluded class (where data.policy excludes any)",
    "audit": "search them for leaked chips (or name a distilled set: audit SET.nc --data NAME --root FOLDER --out DIR)",
    "evaluate": "judge them beside the baselines",
    "export": "write tiles and index (or name a distilled set: export SET.nc --out DIR)",
    "report": "write report.html",
}
_RUN_HELP = (
    "Any option of the config can follow it: --name NAME of the run, --out FOLDER of all runs, --data.root FOLDER of "
    "the dataset, --distill.ipc 20 and so on; a misspelt one is answered with those there are."
)
_EXPORT_HELP = (
    "A distilled set takes: --out DIR [--overwrite | --resume] [--workers N] [--dtype TYPE] [--gsd METRES] "
    "[--epsg CODE --origin X Y] [--geoparquet] [--allow-blocked]"
)
_AUDIT_HELP = (
    "A distilled set takes: --out DIR and either --config YAML of the run that made it or --data NAME --root FOLDER; "
    "further options as in a config, such as --data.scheme published --audit.features descriptors "
    "--report.show_real false. Exit code 1 says that a tile is blocked."
)
_SET_FILES = (".nc", ".zarr")
_LISTS = ("datasets", "codecs", "captioners", "presets", "distillers", "students")
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``rsdistill`` command.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        Exit code: 0, 1 for faults found by ``validate``, 2 for a mistake in what was asked, 130 if stopped,
        141 if its output is read no longer.
    """
    options, rest = _parser().parse_known_args(arguments)
    _quiet()
    try:
        command: Callable[[argparse.Namespace, list[str]], int] = options.command
        code = command(options, rest)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rsdistill",
        description="Distil a remote-sensing scene dataset into a few synthetic images per class.",
        epilog="Any option of a config can be given after it: rsdistill run CONFIG --distill.ipc 20",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rsdistill {package_version()}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    run = verbs.add_parser("run", help="carry out all stages of a config", epilog=_RUN_HELP, allow_abbrev=False)
    _add_config(run, until=None)
    for name, summary in STAGES.items():
        epilog = {"export": _EXPORT_HELP, "audit": _AUDIT_HELP}.get(name, _RUN_HELP)
        verb = verbs.add_parser(name, help=f"run up to this stage: {summary}", epilog=epilog, allow_abbrev=False)
        _add_config(verb, until=name)
    for name in _LISTS:
        listing = verbs.add_parser(name, help=f"list the {name} there are", allow_abbrev=False)
        listing.set_defaults(command=_list, kind=name)
    add_policy(verbs)
    validate = verbs.add_parser("validate", help="check an exported folder", allow_abbrev=False)
    validate.add_argument("folder", type=Path, help="folder that 'export' wrote")
    validate.set_defaults(command=_validate)
    return parser


def _add_config(parser: argparse.ArgumentParser, until: str | None) -> None:
    takes_sets = until in ("export", "audit")
    parser.add_argument("config", help="YAML file" + (", or a distilled set (.nc, .zarr)" if takes_sets else ""))
    parser.add_argument("--dry-run", action="store_true", help="print the plan: read the dataset, write nothing")
    parser.set_defaults(command=_run, until=until)


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    is_set = Path(options.config).suffix in _SET_FILES
    if options.until == "export" and (is_set or "--out" in rest):
        return _export_set(Path(options.config), rest)
    if options.until == "audit" and is_set:
        return _audit_set(Path(options.config), rest)
    from rsdistill.pipeline.config import load_config

    config = load_config(options.config, rest)
    from rsdistill.pipeline.stages import Run

    run = Run(config)
    if options.dry_run:
        from rsdistill.pipeline.plan import plan_table

        print(plan_table(run, options.until))
        return 0
    from rsdistill.pipeline.engine import process_rank, write_run_files

    if process_rank():
        run.pipeline.run(options.until)
        return 0

    def announce(state: StageState) -> None:
        what = f"complete (took {state.seconds:.0f} s)" if state.cached else "running"
        print(f"{state.folder.name}: {what}", flush=True)
        write_run_files(config, run.pipeline.states())

    states = run.pipeline.run(options.until, announce)
    write_run_files(config, states)
    _summarise(run, states)
    return 0


def _summarise(run: Run, states: Sequence[StageState]) -> None:
    done = {state.name: state for state in states if state.cached}
    print()
    for state in done.values():
        figures = ", ".join(f"{name} {_short(value)}" for name, value in state.figures.items())
        print(f"{state.folder.name:14} {state.seconds:7.1f} s  {figures}")
    if "evaluate" in done:
        print(f"\n{run.evaluation().table()}")
    print(f"\nrun folder: {run.config.folder}")
    sets = [done[name].folder / "distilled.nc" for name in ("distill", "screen", "audit") if name in done]
    outputs = {"audit": "audit.html", "export": "tiles", "report": "report.html"}
    found = {name: done[name].folder / file for name, file in outputs.items() if name in done}
    for name, path in (({"set": sets[-1]} if sets else {}) | found).items():
        print(f"{name:10}  {path}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _export_set(path: Path, rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rsdistill export SET", allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that is there")
    parser.add_argument("--resume", action="store_true", help="go on where an export was cut off")
    parser.add_argument("--workers", type=int, default=1, help="processes that write")
    parser.add_argument("--dtype", help="uint8, uint16 or float32; the set's own unless given")
    parser.add_argument("--gsd", type=float, help="metres a pixel; the dataset's unless given")
    parser.add_argument("--epsg", type=int, help="projected CRS to draw the tiles in, at a place they do not show")
    parser.add_argument(
        "--origin", type=float, nargs=2, default=(0.0, 0.0), metavar=("X", "Y"), help="upper left corner"
    )
    parser.add_argument("--geoparquet", action="store_true", help="write the index as GeoParquet too")
    parser.add_argument("--allow-blocked", action="store_true", help="write tiles that the audit blocked too")
    options = parser.parse_args(rest)
    from rsdistill.distilled import DistilledSet
    from rsdistill.export import GeoRef, export_tiles

    folder = export_tiles(
        DistilledSet.load(path),
        options.out,
        georef=GeoRef(options.gsd, options.epsg, tuple(options.origin)),
        dtype=options.dtype,
        overwrite=options.overwrite,
        resume=options.resume,
        workers=options.workers,
        geoparquet=options.geoparquet,
        allow_blocked=options.allow_blocked,
    )
    print(folder)
    return 0


def _audit_set(path: Path, rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rsdistill audit SET", allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that is there")
    parser.add_argument("--config", help="YAML of the run that made the set")
    parser.add_argument("--data", help="name of the dataset that the set was made from")
    parser.add_argument("--root", help="folder of the dataset")
    options, others = parser.parse_known_args(rest)
    from rsdistill.distilled import DistilledSet
    from rsdistill.pipeline.config import config_for_set

    tiles = DistilledSet.load(path)
    config = config_for_set(tiles, options.config, options.data, options.root, others)
    from rsdistill.pipeline.stages import audit_set

    report = audit_set(tiles, config, options.out, options.overwrite)
    print(", ".join(f"{count} {verdict}" for verdict, count in report.counts.items()))
    print(options.out)
    return 1 if report.counts["block"] else 0


def _validate(options: argparse.Namespace, rest: list[str]) -> int:
    _refuse(rest)
    from rsdistill.export import validate_folder

    faults = validate_folder(options.folder)
    for fault in faults:
        print(fault)
    print(f"{options.folder}: {len(faults)} fault(s)" if faults else f"{options.folder}: no fault")
    return 1 if faults else 0


def _list(options: argparse.Namespace, rest: list[str]) -> int:
    _refuse(rest)
    entries = list(_registry(options.kind))
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        print(f"{entry.name:{width}}  {entry.summary}" + (f" ({entry.source})" if entry.source else ""))
    return 0


def _registry(kind: str) -> Any:
    if kind == "datasets":
        from rsdistill.datasets import DATASETS as registry
    elif kind == "codecs":
        from rsdistill.codecs import CODECS as registry  # type: ignore[assignment]
    elif kind == "captioners":
        from rsdistill.captions import CAPTIONERS as registry  # type: ignore[assignment]
    elif kind == "presets":
        from rsdistill.diffusion.presets import list_presets

        return list_presets()
    elif kind == "distillers":
        from rsdistill.distillers import DISTILLERS as registry  # type: ignore[assignment]
    else:
        from rsdistill.models.networks import STUDENTS as registry  # type: ignore[assignment]
    return registry


def _refuse(rest: list[str]) -> None:
    if rest:
        raise OptionError(f"argument '{rest[0]}' is not understood; see rsdistill --help")


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
