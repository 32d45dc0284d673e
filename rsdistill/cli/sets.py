"""``rsdistill audit|evaluate|export|validate``: what is done with a distilled set once it is there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsdistill.cli.listing import add_verb, refuse

if TYPE_CHECKING:
    from rsdistill.distilled import DistilledSet
    from rsdistill.pipeline.config import RunConfig

_OPTIONS = (
    "Say which dataset the set was made from, by --config or by --data and --root. Further options as in a config can "
    "follow, such as --data.scheme published --report.show_real false."
)
_BLOCKED = " Exit code 1 says that a tile is blocked."
_SET_HELP = "distilled set, .nc or .zarr"


def add_sets(verbs: Any, plugins: argparse.ArgumentParser) -> None:
    """Add the commands to a parser's commands."""
    summary, epilog = "search a distilled set for leaked chips", _OPTIONS + _BLOCKED
    audit = add_verb(verbs, "audit", summary, _audit, parents=[plugins], epilog=epilog)
    audit.add_argument("set", type=Path, help=_SET_HELP)
    audit.add_argument("--out", type=Path, required=True, help="folder to make")
    audit.add_argument("--overwrite", action="store_true", help="replace a folder that is there")
    summary = "judge a distilled set beside all real chips"
    evaluate = add_verb(verbs, "evaluate", summary, _evaluate, parents=[plugins], epilog=_OPTIONS)
    evaluate.add_argument("set", type=Path, help=_SET_HELP)
    evaluate.add_argument("--out", type=Path, help="folder for what is finished; the same command continues from it")
    for parser in (audit, evaluate):
        parser.add_argument("--config", help="YAML of the run that made the set")
        parser.add_argument("--data", help="name of the dataset that the set was made from")
        parser.add_argument("--root", help="folder of the dataset")
    _add_export(verbs, plugins)
    validate = add_verb(verbs, "validate", "check a distilled set or an exported folder", _validate)
    validate.add_argument("set", type=Path, help=f"{_SET_HELP}, or an exported folder")


def _add_export(verbs: Any, plugins: argparse.ArgumentParser) -> None:
    export = add_verb(verbs, "export", "write a distilled set as tiles, index and catalog", _export, parents=[plugins])
    export.add_argument("set", type=Path, help=_SET_HELP)
    export.add_argument("--out", type=Path, required=True, help="folder to make")
    export.add_argument("--overwrite", action="store_true", help="replace a folder that is there")
    export.add_argument("--resume", action="store_true", help="go on where an export was cut off")
    export.add_argument("--workers", type=int, default=1, help="processes that write")
    export.add_argument("--dtype", help="uint8, uint16 or float32; the set's own unless given")
    export.add_argument("--gsd", type=float, help="metres a pixel; the dataset's unless given")
    export.add_argument("--epsg", type=int, help="projected CRS to draw the tiles in, at a place they do not show")
    export.add_argument(
        "--origin", type=float, nargs=2, default=(0.0, 0.0), metavar=("X", "Y"), help="upper left corner"
    )
    further = "further format, one of 'rsdistill list export_formats'; can be repeated"
    export.add_argument("--format", dest="formats", action="append", default=[], metavar="NAME", help=further)
    same = "the same as --format geoparquet"
    export.add_argument("--geoparquet", dest="formats", action="append_const", const="geoparquet", help=same)
    export.add_argument("--allow-blocked", action="store_true", help="write tiles that the audit blocked too")


def _config(options: argparse.Namespace, rest: list[str]) -> tuple[DistilledSet, RunConfig]:
    """The set, and the config of what it was made from."""
    from rsdistill.distilled import DistilledSet
    from rsdistill.pipeline.config import config_for_set

    tiles = DistilledSet.load(options.set)
    return tiles, config_for_set(tiles, options.config, options.data, options.root, rest)


def _audit(options: argparse.Namespace, rest: list[str]) -> int:
    tiles, config = _config(options, rest)
    from rsdistill.pipeline.run import audit_set

    report = audit_set(tiles, config, options.out, options.overwrite)
    print(", ".join(f"{count} {verdict}" for verdict, count in report.counts.items()))
    print(options.out)
    return 1 if report.counts["block"] else 0


def _evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    tiles, config = _config(options, rest)
    from rsdistill.pipeline.run import evaluate_set

    print(evaluate_set(tiles, config, options.out).table())
    return 0


def _export(options: argparse.Namespace, rest: list[str]) -> int:
    refuse(rest, "export")
    from rsdistill.distilled import DistilledSet
    from rsdistill.export import GeoRef, export_tiles

    folder = export_tiles(
        DistilledSet.load(options.set),
        options.out,
        georef=GeoRef(options.gsd, options.epsg, tuple(options.origin)),
        dtype=options.dtype,
        overwrite=options.overwrite,
        resume=options.resume,
        workers=options.workers,
        formats=options.formats,
        allow_blocked=options.allow_blocked,
    )
    print(folder)
    return 0


def _validate(options: argparse.Namespace, rest: list[str]) -> int:
    refuse(rest, "validate")
    path: Path = options.set
    # A zarr store is a folder too; its own file tells it from an exported one.
    if path.is_dir() and not (path / "zarr.json").is_file():
        from rsdistill.export import validate_folder

        faults = validate_folder(path)
    else:
        from rsdistill.distilled import DistilledSet

        DistilledSet.load(path)
        faults = []
    for fault in faults:
        print(fault)
    print(f"{path}: {len(faults)} fault(s)" if faults else f"{path}: no fault")
    return 1 if faults else 0
