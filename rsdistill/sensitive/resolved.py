"""A policy carried out on the classes of one dataset: what becomes of each of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from rsdistill.classes import ClassInfo, readable
from rsdistill.errors import PolicyError
from rsdistill.sensitive.scrub import find_terms, number_forms
from rsdistill.sensitive.taxonomy import NO_SECTOR

Action = Literal["exclude", "coarsen", "protect", "allow"]

_PARENT = re.compile(r"[^\W_][\w-]*")
# A classifier of one class has nothing to tell apart.
_LEAST = 2


@dataclass(frozen=True)
class Decision:
    """What becomes of one class.

    Attributes:
        key: The class.
        name: Its readable name.
        sector: Its sector, ``none``, or None where nobody assigned it.
        action: ``exclude``, ``coarsen``, ``protect`` or ``allow``.
        into: Class that it becomes, where it is coarsened.
        rule: The rule that decided.
        reason: The reason that the rule gives.
    """

    key: str
    name: str
    sector: str | None
    action: Action
    into: str | None
    rule: str
    reason: str


@dataclass(frozen=True)
class PolicyRecord:
    """What a run folder and a distilled set say of the policy: counts, and no name of what was left out.

    Attributes:
        digest: sha256 of the policy.
        counts: Classes of the dataset by action.
        protected: Keys of the protected classes.
        disclosed: Keys left out (``excluded``) and merged (``merged``, to their new class) where the
            policy discloses them, else None.
    """

    digest: str
    counts: Mapping[str, int]
    protected: tuple[str, ...] = ()
    disclosed: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        said = {"digest": self.digest, "counts": dict(self.counts), "protected": list(self.protected)}
        return said if self.disclosed is None else said | {"disclosed": dict(self.disclosed)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PolicyRecord:
        """Rebuild a record from :meth:`to_dict`."""
        return cls(values["digest"], values["counts"], tuple(values["protected"]), values.get("disclosed"))


@dataclass(frozen=True)
class ResolvedPolicy:
    """What becomes of each class of a dataset.

    Attributes:
        dataset: Name of the dataset.
        digest: sha256 of the policy.
        decisions: One for each class, in the dataset's order.
        excluded_terms: Further words that no text may hold.
        disclose: Whether run folders may name what was left out.
    """

    dataset: str
    digest: str
    decisions: tuple[Decision, ...]
    excluded_terms: tuple[str, ...] = ()
    disclose: bool = False

    @cached_property
    def target(self) -> dict[str, str]:
        """Key before the policy to key after it; excluded classes are not in it."""
        return {d.key: d.into or d.key for d in self.decisions if d.action != "exclude"}

    @property
    def read(self) -> tuple[str, ...]:
        """Keys of the classes that may be read, as the dataset spells them."""
        return tuple(self.target)

    @property
    def excluded(self) -> tuple[str, ...]:
        """Keys of the classes that are never read."""
        return tuple(d.key for d in self.decisions if d.action == "exclude")

    @property
    def protected(self) -> frozenset[str]:
        """Keys, after the policy, of classes that are protected."""
        return frozenset(d.key for d in self.decisions if d.action == "protect")

    @cached_property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes that are left, in the dataset's order."""
        return tuple(self.class_info(key) for key in dict.fromkeys(self.target.values()))

    def class_info(self, key: str) -> ClassInfo:
        """A class after the policy; a merged one keeps the sector that its members share."""
        own = [d for d in self.decisions if d.key == key]
        sectors = {d.sector for d in self.decisions if self.target.get(d.key) == key}
        sector = sectors.pop() if len(sectors) == 1 else None
        return ClassInfo(key, own[0].name if own else readable(key), None if sector == NO_SECTOR else sector)

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """Words that no text may hold: names of excluded and merged classes, and the policy's own terms.

        Keys and readable names, in singular and plural; :func:`rsdistill.sensitive.scrub.scrub`
        knows their other spellings.
        """
        names = {name for d in self.decisions if self._is_hidden(d) for name in (d.key, d.name, readable(d.key))}
        names |= set(self.excluded_terms)
        parts = [name.rpartition(" ") for name in names]
        spelt = {first + blank + form for first, blank, last in parts for form in number_forms(last)}
        return tuple(sorted(names | spelt))

    @cached_property
    def kept_names(self) -> tuple[str, ...]:
        """Names of the classes that are left: they stay in texts although they may hold a term."""
        return tuple(name for info in self.classes for name in {info.key, info.name})

    @staticmethod
    def _is_hidden(decision: Decision) -> bool:
        """Whether no text may name a class: it is excluded, or merged into one of another name."""
        into = decision.into
        if into is None:
            return decision.action == "exclude"
        return readable(into) not in (readable(decision.key), decision.name)

    def record(self) -> PolicyRecord:
        """What may be written down of the policy."""
        counts = Counter(d.action for d in self.decisions)
        said = {
            "excluded": counts["exclude"],
            "merged": counts["coarsen"],
            "protected": counts["protect"],
            "allowed": counts["allow"],
        }
        merged = {d.key: d.into for d in self.decisions if d.into is not None}
        named = {"excluded": list(self.excluded), "merged": merged} if self.disclose else None
        return PolicyRecord(self.digest, said, tuple(sorted(self.protected)), named)


def resolved(
    decisions: Sequence[Decision],
    dataset: str,
    digest: str,
    excluded_terms: tuple[str, ...],
    disclose: bool,
    where: str,
) -> ResolvedPolicy:
    """Decisions as a whole, refused where they make no sense together.

    Raises:
        PolicyError: If a class is merged into one that is excluded or merged itself, a name that is
            left gives an excluded one away, or fewer than two classes are left.
    """
    result = ResolvedPolicy(dataset, digest, tuple(decisions), excluded_terms, disclose)
    if not result.read:
        raise PolicyError(f"{where} excludes every class of {dataset}; allow at least {_LEAST}")
    _check_parents(result, where)
    if len(result.classes) < _LEAST:
        raise PolicyError(
            f"{where} leaves one class of {dataset}, '{result.classes[0].key}'; a classifier needs at least {_LEAST}"
        )
    for info in result.classes:
        clash = [term for term in result.terms if readable(term) in (readable(info.key), info.name)]
        if clash:
            raise PolicyError(
                f"{where}: '{clash[0]}' may stand in no text, but class '{info.key}' keeps that name; "
                "exclude or rename the class, or leave out the term"
            )
    return result


def _check_parents(result: ResolvedPolicy, where: str) -> None:
    by_key = {d.key: d for d in result.decisions}
    excluded = [name for d in result.decisions if d.action == "exclude" for name in (d.key, d.name)]
    for decision in result.decisions:
        into = decision.into
        if into is None:
            continue
        parent = by_key.get(into)
        told = f"{where}: class '{decision.key}' is merged into '{into}' ({decision.rule})"
        if not _PARENT.fullmatch(into):
            raise PolicyError(f"{told}, which is no class key; use letters, digits, '-' and '_'")
        if parent is not None and parent.action == "exclude":
            raise PolicyError(f"{told}, which is excluded itself ({parent.rule}); exclude both, or merge elsewhere")
        if parent is not None and parent.into not in (None, into):
            raise PolicyError(f"{told}, which is merged into '{parent.into}' itself; merge both into the same class")
        if find_terms(readable(into), excluded):
            raise PolicyError(f"{told}, whose name gives an excluded class away; choose another name")
