"""``rsdistill policy show|check|init``: what a policy makes of a dataset, before anything is read."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from rsdistill.classes import ClassInfo
from rsdistill.cli.listing import refuse
from rsdistill.errors import PolicyError, storage_errors
from rsdistill.sensitive.policy import ANY, Policy
from rsdistill.sensitive.resolved import ResolvedPolicy
from rsdistill.sensitive.taxonomy import NO_SECTOR, load_taxonomy

_WIDTH = 110
# What a policy to start from excludes; it allows the rest, for a person to think over.
_CRITICAL = ("transport", "energy", "water", "industry", "defence", "government", "communications", "health")


def policy_table(resolved: ResolvedPolicy) -> str:
    """A line a class: its sector, what becomes of it, and the rule that decides."""
    rows = [("class", "sector", "action", "rule")]
    for decision in resolved.decisions:
        action = f"coarsen into {decision.into}" if decision.into else decision.action
        rule = decision.rule + (f" ({decision.reason})" if decision.reason else "")
        rows.append((decision.key, decision.sector or "not assigned", action, rule))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([_headline(resolved), *lines])


def policy_summary(resolved: ResolvedPolicy) -> str:
    """What is dropped, merged, protected and allowed."""
    kept = {action: [d.key for d in resolved.decisions if d.action == action] for action in ("protect", "allow")}
    merged = {d.into: [o.key for o in resolved.decisions if o.into == d.into] for d in resolved.decisions if d.into}
    lines = [
        *_listed("drops", resolved.excluded),
        *(line for into, keys in merged.items() for line in _listed("merges", keys, f"into {into}: ")),
        *_listed("protects", kept["protect"]),
        *_listed("allows", kept["allow"]),
    ]
    return "\n".join([_headline(resolved), *lines])


def starting_policy(dataset: str, classes: Sequence[ClassInfo]) -> str:
    """A commented policy that covers every class: critical infrastructure is excluded, the rest allowed."""
    taxonomy = load_taxonomy()
    assigned = taxonomy.datasets.get(dataset, {})
    sectors = {c.key: assigned[c.key].sector if c.key in assigned else c.sector or NO_SECTOR for c in classes}
    unknown = {key: sector for key, sector in sectors.items() if key not in assigned}
    template = (resources.files("rsdistill.cli") / "starting_policy.txt").read_text("utf-8")
    parts = [template.format(dataset=dataset)]
    if unknown:
        known = ", ".join([*taxonomy.sectors, NO_SECTOR])
        listed = yaml.safe_dump({"classes": unknown}, sort_keys=False, allow_unicode=True)
        parts.append(f"# The sector of each class, one of: {known}.\n{listed}")
    rules = ["rules:"]
    for key in [*taxonomy.sectors, NO_SECTOR]:
        members = [name for name, sector in sectors.items() if sector == key]
        if not members:
            continue
        title = f"{taxonomy.sectors[key].title}: {taxonomy.sectors[key].covers}" if key != NO_SECTOR else "Of no sector"
        rules += [f"  # {title}", *_comment(members), f"  - {{ sector: {key}, action: {_start(key)} }}"]
    return "\n".join([*parts, "\n".join(rules)]) + "\n"


def _start(sector: str) -> str:
    return "exclude" if sector in _CRITICAL else "allow"


def _headline(resolved: ResolvedPolicy) -> str:
    return f"{resolved.dataset}: {len(resolved.decisions)} classes, {len(resolved.classes)} left"


def _listed(what: str, keys: Sequence[str], before: str = "") -> list[str]:
    """Keys in lines of bounded width; nothing for none."""
    lead = f"  {what:9} "
    text = before + ", ".join(keys)
    return textwrap.wrap(text, _WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead)) if keys else []


def _comment(members: Iterable[str]) -> list[str]:
    return textwrap.wrap(", ".join(members), _WIDTH, initial_indent="  # ", subsequent_indent="  # ")


def add_policy(verbs: Any) -> None:
    """Add the command to a parser's commands."""
    policy = verbs.add_parser("policy", help="say what a policy drops, merges or protects", allow_abbrev=False)
    what = policy.add_subparsers(required=True, metavar="show|check|init")
    show = what.add_parser("show", help="each class, its sector, and the rule that decides", allow_abbrev=False)
    check = what.add_parser("check", help="what is dropped, merged and protected; code 2 for a mistake in the policy")
    init = what.add_parser("init", help="write a commented policy to start from", allow_abbrev=False)
    for parser in (show, check):
        parser.add_argument("policy", type=Path, help="YAML file")
        parser.add_argument(
            "--dataset", help="dataset to hold it against; its own unless given, all known ones where it is for any"
        )
        parser.set_defaults(command=_tell, tell=policy_table if parser is show else policy_summary)
    init.add_argument("dataset", help="name of the dataset")
    init.add_argument("--out", type=Path, help="file to write; printed unless given")
    init.set_defaults(command=_init)
    for parser in (show, check, init):
        parser.add_argument("--root", help="folder of the dataset; needed where only the folder tells the classes")


def _tell(options: argparse.Namespace, rest: Sequence[str]) -> int:
    refuse(rest, "policy")
    policy = Policy.load(options.policy)
    known = list(load_taxonomy().datasets)
    names = [options.dataset] if options.dataset else known if policy.dataset == ANY else [policy.dataset]
    print("\n\n".join(options.tell(policy.resolve(_classes(name, options.root), name)) for name in names))
    return 0


def _init(options: argparse.Namespace, rest: Sequence[str]) -> int:
    refuse(rest, "policy")
    text = starting_policy(options.dataset, _classes(options.dataset, options.root))
    if options.out is None:
        print(text, end="")
        return 0
    with storage_errors(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        # 'x': a policy that a person has edited is not to be written over.
        with options.out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    print(options.out)
    return 0


def _classes(dataset: str, root: str | None) -> tuple[ClassInfo, ...]:
    """Classes of a dataset, from its folder or from the taxonomy."""
    if root is None and dataset in load_taxonomy().datasets:
        return load_taxonomy().classes(dataset)
    from rsdistill.datasets.loading import known_classes

    classes = known_classes(dataset, {"root": root})
    if classes is None:
        raise PolicyError(f"dataset '{dataset}' tells its classes only when it is loaded; use load_dataset(policy=...)")
    return classes
