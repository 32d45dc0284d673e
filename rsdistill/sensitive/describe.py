"""A policy in words, for the person who answers for it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import yaml

from rsdistill.classes import ClassInfo
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
    parts = [
        f"""\
# What is to be done with the classes of dataset '{dataset}'. Check it with: rsdistill policy check FILE
#
# A rule names classes by sector, by pattern ("*port*") or by class, one or a list of them, and gives one action:
#   exclude   no chip is ever read
#   coarsen   merged into another class, given by 'into: NAME'
#   protect   only k-anonymous prototypes, texts from the template, no soft labels, a stricter audit
#   allow     nothing is done
# A rule by class goes before one by pattern, and that before one by sector. A class without a rule is an error.

dataset: {dataset}

# true: the run folder names the classes that were left out or merged; else it only counts them.
disclose: false

# Words that no caption and no metadata may hold, besides the names of excluded classes.
excluded_terms: []
"""
    ]
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
