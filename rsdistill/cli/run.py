"""``rsdistill run CONFIG``: all stages of a config, or those up to one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rsdistill.cli.listing import GIVEN, add_verb, option_table
from rsdistill.errors import OptionError
from rsdistill.utils.options import OptionHelp, describe_options

if TYPE_CHECKING:
    from rsdistill.pipeline.config import RunConfig
    from rsdistill.pipeline.engine import StageState
    from rsdistill.pipeline.run import Run
    from rsdistill.registry import Registry

_USAGE = (
    "usage: rsdistill run CONFIG [--until STAGE] [--dry-run] [--import MODULE] [--group.option VALUE]...\n\n"
    "Carries out the stages of a config. What is complete and unchanged is not run again.\n\n"
    "  CONFIG           YAML file; 'rsdistill init FOLDER' writes one to start from\n"
    "  --until STAGE    stop after this stage; 'rsdistill run CONFIG --help' lists them\n"
    "  --dry-run        print the plan: read the dataset, write nothing\n"
    "  --import MODULE  module, or path of a .py file, that registers plug-ins; can be repeated\n"
)


def add_run(verbs: Any, plugins: argparse.ArgumentParser) -> None:
    """Add the command to a parser's commands."""
    run = add_verb(verbs, "run", "carry out the stages of a config", _run, parents=[plugins], add_help=False)
    run.add_argument("-h", "--help", action="store_true")
    run.add_argument("--until")
    run.add_argument("--dry-run", action="store_true")


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    path, overrides = _config_and_options(rest)
    if options.help:
        print(_general_help() if path is None else _config_help(path, overrides))
        return 0
    if path is None:
        raise OptionError("a config is missing: rsdistill run CONFIG; 'rsdistill init FOLDER' writes one to start from")
    from rsdistill.pipeline.config import load_config

    config = load_config(path, overrides)
    from rsdistill.pipeline.run import Run, plan_table

    run = Run(config)
    if options.dry_run:
        print(plan_table(run, options.until))
        return 0
    return _carry_out(run, options.until)


def _carry_out(run: Run, until: str | None) -> int:
    from rsdistill.pipeline.engine import process_rank, write_run_files

    if process_rank():
        run.pipeline.run(until)
        return 0

    def announce(state: StageState) -> None:
        what = f"complete (took {state.seconds:.0f} s)" if state.cached else "running"
        print(f"{state.folder.name}: {what}", flush=True)
        write_run_files(run.config, run.pipeline.states())

    states = run.pipeline.run(until, announce)
    write_run_files(run.config, states)
    _summarise(run, states)
    return 0


def _summarise(run: Run, states: Sequence[StageState]) -> None:
    print()
    for state in states:
        if state.cached:
            figures = ", ".join(f"{name} {_short(value)}" for name, value in state.figures.items())
            print(f"{state.folder.name:14} {state.seconds:7.1f} s  {figures}")
    table = run.table()
    if table is not None:
        print(f"\n{table}")
    print(f"\nrun folder: {run.config.folder}")
    for name, path in run.outputs().items():
        print(f"{name:10}  {path}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _config_and_options(rest: Sequence[str]) -> tuple[str | None, list[str]]:
    """The config, which may stand anywhere, and the options with their values."""
    path: str | None = None
    overrides: list[str] = []
    waiting = list(rest)
    while waiting:
        argument = waiting.pop(0)
        if argument.startswith("--"):
            overrides.append(argument)
            if "=" not in argument and waiting:
                overrides.append(waiting.pop(0))
        elif path is None:
            path = argument
        else:
            raise OptionError(f"argument '{argument}' is not understood; options look like --group.option VALUE")
    return path, overrides


def _general_help() -> str:
    from rsdistill.pipeline.config import RunConfig

    lead = "Options of every config; those of plug-ins are listed by 'rsdistill options NAME':"
    return f"{_USAGE}\n{lead}\n\n{option_table(describe_options(RunConfig))}"


def _config_help(path: str, overrides: Sequence[str]) -> str:
    """Stages of a config, and the options of the plug-ins that it chooses."""
    from rsdistill.pipeline.config import load_config
    from rsdistill.pipeline.run import Run

    run = Run(load_config(path, overrides))
    width = max(len(stage.name) for stage in run.pipeline.stages)
    stages = [f"  {stage.name:{width}}  {stage.summary}" for stage in run.pipeline.stages]
    parts = [_USAGE, f"Stages of {path}:", "\n".join(stages), ""]
    for title, rows in _chosen(run.config):
        parts += [title, option_table(rows) if rows else "  no options", ""]
    return "\n".join([*parts, "Options of every config: rsdistill run --help"])


def _chosen(config: RunConfig) -> Iterator[tuple[str, list[OptionHelp]]]:
    """Title and options of each plug-in that a config chooses, by the names that a run takes."""
    from rsdistill.captions import CAPTIONERS
    from rsdistill.codecs import CODECS
    from rsdistill.datasets import DATASETS
    from rsdistill.distillers import DISTILLERS

    chosen: dict[str, tuple[Registry[Any], str]] = {
        "data": (DATASETS, config.data.name),
        "codec": (CODECS, config.codec.name),
        "captions": (CAPTIONERS, config.captions.name),
        "distill": (DISTILLERS, config.distill.method),
    }
    for group, (registry, name) in chosen.items():
        # What the config's own group gives, such as the folder of a dataset, is not given again.
        given = set(vars(getattr(config, group))) | set(GIVEN.get(registry.kind, ()))
        options = describe_options(registry.get(name).factory, f"{group}.options", given)
        yield f"Options of {registry.kind} '{name}':", options
