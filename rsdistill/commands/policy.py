"""``rsdistill policy show|check|init``: what a policy makes of a dataset, before anything is read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsdistill.classes import ClassInfo
from rsdistill.errors import OptionError, PolicyError, storage_errors
from rsdistill.sensitive.describe import policy_summary, policy_table, starting_policy
from rsdistill.sensitive.policy import ANY, Policy
from rsdistill.sensitive.taxonomy import load_taxonomy


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
    _refuse(rest)
    policy = Policy.load(options.policy)
    known = list(load_taxonomy().datasets)
    names = [options.dataset] if options.dataset else known if policy.dataset == ANY else [policy.dataset]
    print("\n\n".join(options.tell(policy.resolve(_classes(name, options.root), name)) for name in names))
    return 0


def _init(options: argparse.Namespace, rest: Sequence[str]) -> int:
    _refuse(rest)
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


def _refuse(rest: Sequence[str]) -> None:
    if rest:
        raise OptionError(f"argument '{rest[0]}' is not understood; see rsdistill policy --help")
