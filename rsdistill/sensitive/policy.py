"""The policy: which classes of a dataset are kept out, merged, protected or allowed.

A policy is read whole or not at all, and it fails closed: what it does not cover is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from rsdistill.classes import ClassInfo
from rsdistill.errors import OptionError, PolicyError, UnknownNameError, suggestion
from rsdistill.sensitive.resolved import Action, Decision, ResolvedPolicy, resolved
from rsdistill.sensitive.taxonomy import NO_SECTOR, Taxonomy, load_taxonomy
from rsdistill.utils.io import YamlFile, YamlKind, read_yaml
from rsdistill.utils.options import parse_options, plain
from rsdistill.utils.provenance import digest

ANY = "any"
"""Name that makes a policy fit every dataset."""

Kind = Literal["class", "pattern", "sector"]
_ACTIONS: tuple[str, ...] = get_args(Action)
_KINDS: tuple[Kind, ...] = ("class", "pattern", "sector")
# More known names than this only hide the nearest one.
_LISTED = 50
FILE = YamlKind(
    "policy",
    PolicyError,
    "'rsdistill policy init DATASET' writes one",
    "'dataset:' and 'rules:'; see 'rsdistill policy init'",
)
_RULE_KEYS = (*_KINDS, "action", "into", "reason")


@dataclass(frozen=True)
class Rule:
    """What is to be done with some classes.

    Attributes:
        kind: What names them: ``class`` (keys), ``pattern`` (keys with ``*`` and ``?``, in any
            case) or ``sector``.
        names: The keys, patterns or sectors.
        action: ``exclude``, ``coarsen``, ``protect`` or ``allow``.
        into: Class that coarsened ones become.
        reason: Why, for the person who reads the policy.
        where: Number and line in the file, for messages.
    """

    kind: Kind
    names: tuple[str, ...]
    action: Action
    into: str | None = None
    reason: str = ""
    where: str = field(default="", compare=False)

    def covers(self, key: str, sector: str | None) -> bool:
        """Whether the rule speaks of a class."""
        if self.kind == "pattern":
            return any(fnmatchcase(key.lower(), pattern.lower()) for pattern in self.names)
        return (key if self.kind == "class" else sector) in self.names

    def __str__(self) -> str:
        """The rule as one reads it: ``rule 2, line 9: exclude sector energy``."""
        return f"{self.where}: {self.action} {self.kind} {', '.join(self.names)}"


@dataclass(frozen=True)
class _Head:
    """The options of a policy beside its rules."""

    dataset: str
    rules: tuple[Any, ...]
    classes: dict[str, str] = field(default_factory=dict)
    excluded_terms: tuple[str, ...] = ()
    disclose: bool = False


@dataclass(frozen=True)
class Policy:
    """Rules over the classes of one dataset, or of any.

    Attributes:
        dataset: Name of the dataset it is for, or ``any``.
        rules: A rule by class beats one by pattern, which beats one by sector; two of equal rank
            that want different things of a class contradict each other.
        classes: Sectors of classes, ``none`` included; they go before the taxonomy's.
        excluded_terms: Further words that no text may hold.
        disclose: Whether run folders may name what was left out.
        path: The file, for messages.
    """

    dataset: str
    rules: tuple[Rule, ...]
    classes: Mapping[str, str] = field(default_factory=dict)
    excluded_terms: tuple[str, ...] = ()
    disclose: bool = False
    path: str = field(default="policy", compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file.

        Raises:
            PolicyError: If it is missing, misspelt or names an unknown class or sector; the message
                names the rule, its line and the nearest valid name.
        """
        return cls.parse(read_yaml(Path(path), FILE), str(path))

    @classmethod
    def parse(cls, file: YamlFile, path: str) -> Policy:
        """Build a policy from what its file holds; see :meth:`load`."""
        for key in ("dataset", "rules"):
            if not file.values.get(key):
                others = ", ".join(f"'{other}'" for other in file.values if other not in _Head.__dataclass_fields__)
                given = f" and does not know {others}" if others else ""
                raise PolicyError(f"policy {path} lacks '{key}:'{given}; see 'rsdistill policy init'")
        try:
            head = parse_options(_Head, file.values)
        except OptionError as error:
            raise PolicyError(f"policy {path}: {error}") from error
        rules = []
        for number, values in enumerate(head.rules):
            where = f"rule {number + 1}, line {file.lines[f'rules[{number}]']}"
            try:
                rules.append(_rule(values, where))
            except OptionError as error:
                raise PolicyError(f"policy {path}, {where}: {error}") from error
        policy = cls(head.dataset, tuple(rules), head.classes, head.excluded_terms, head.disclose, path)
        policy._check(load_taxonomy())
        return policy

    @property
    def digest(self) -> str:
        """sha256 of all that the policy says and of the taxonomy it is read with; comments do not count."""
        rules = [plain(rule) | {"where": None} for rule in self.rules]
        said = [self.dataset, rules, dict(self.classes), self.excluded_terms, self.disclose]
        return digest([plain(part) for part in said] + [load_taxonomy().digest])

    def resolve(self, classes: Sequence[ClassInfo], dataset: str) -> ResolvedPolicy:
        """What becomes of each class of a dataset.

        Args:
            classes: All classes of the dataset, as they are before the policy.
            dataset: Registered name of the dataset.

        Raises:
            PolicyError: If the policy is for another dataset, leaves a class uncovered, names a class
                that is not there, contradicts itself, or leaves fewer than two classes.
        """
        if self.dataset not in (ANY, dataset):
            raise PolicyError(
                f"policy {self.path} is for dataset '{self.dataset}', not '{dataset}'; give the policy of "
                f"'{dataset}', or 'dataset: {ANY}' where it is meant for every dataset"
            )
        taxonomy = load_taxonomy()
        assigned = taxonomy.datasets.get(dataset, {})
        sectors: dict[str, str | None] = {
            info.key: self.classes.get(info.key) or (assigned[info.key].sector if info.key in assigned else info.sector)
            for info in classes
        }
        self._check_names(sectors, taxonomy)
        decisions = tuple(self._decide(info, sectors[info.key], dataset) for info in classes)
        for decision in decisions:
            self._check_spelling(decision, sectors, dataset)
        return resolved(decisions, dataset, self.digest, self.excluded_terms, self.disclose, f"policy {self.path}")

    def _decide(self, info: ClassInfo, sector: str | None, dataset: str) -> Decision:
        """What the strongest rules say of a class."""
        for kind in _KINDS:
            found = [rule for rule in self.rules if rule.kind == kind and rule.covers(info.key, sector)]
            if not found:
                continue
            first = found[0]
            for other in found[1:]:
                if (other.action, other.into) != (first.action, first.into):
                    raise PolicyError(
                        f"policy {self.path}: contradictory rules for class '{info.key}': {first}; and {other}; keep "
                        "one of them, or decide by a rule of higher rank (class before pattern before sector)"
                    )
            return Decision(info.key, info.name, sector, first.action, first.into, str(first), first.reason)
        known = f"is of sector '{sector}'" if sector else "is assigned to no sector, nor to 'none'"
        raise PolicyError(
            f"policy {self.path}: no rule covers class '{info.key}' of {dataset}, which {known}; add a rule for it, "
            f"such as '- {{class: {info.key}, action: allow}}'"
        )

    def _check_spelling(self, decision: Decision, keys: Collection[str], dataset: str) -> None:
        """Refuse to pass over a class that a rule means, but spells as another dataset does."""
        of_class = [rule for rule in self.rules if rule.kind == "class"]
        if any(decision.key in rule.names for rule in of_class):
            return
        for rule in of_class:
            for name in rule.names:
                meant = name not in keys and _bare(name) == _bare(decision.key)
                if meant and (rule.action, rule.into) != (decision.action, decision.into):
                    raise PolicyError(
                        f"policy {self.path}, {rule.where}: class '{name}' is called '{decision.key}' in {dataset}, "
                        f"which {decision.rule} would {decision.action}; name '{decision.key}' in a class rule, too"
                    )

    def _check(self, taxonomy: Taxonomy) -> None:
        """Refuse names that no dataset can make valid."""
        sectors = [*taxonomy.sectors, NO_SECTOR]
        for key, sector in self.classes.items():
            if sector not in sectors:
                raise PolicyError(f"policy {self.path}: classes.{key}: {UnknownNameError('sector', sector, sectors)}")
        for rule in self.rules:
            for name in rule.names if rule.kind == "sector" else ():
                if name not in sectors:
                    raise PolicyError(f"policy {self.path}, {rule.where}: {UnknownNameError('sector', name, sectors)}")
        if self.dataset in taxonomy.datasets:
            self._check_names(taxonomy.datasets[self.dataset], taxonomy)

    def _check_names(self, keys: Collection[str], taxonomy: Taxonomy) -> None:
        """Refuse class keys and patterns that mean no class; a policy for any dataset may mean those of another."""
        known = set(keys)
        if self.dataset == ANY:
            known |= {key for classes in taxonomy.datasets.values() for key in classes} | set(self.classes)
        else:
            for key in self.classes:
                if key not in known:
                    raise PolicyError(f"policy {self.path}: classes: unknown class '{key}': {_nearest(key, known)}")
        for rule in self.rules:
            for name in rule.names:
                if rule.kind == "class" and name not in known:
                    raise PolicyError(
                        f"policy {self.path}, {rule.where}: unknown class '{name}': {_nearest(name, known)}"
                    )
                if rule.kind == "pattern" and not any(fnmatchcase(key.lower(), name.lower()) for key in known):
                    raise PolicyError(
                        f"policy {self.path}, {rule.where}: pattern '{name}' matches no class: {_nearest(name, known)}"
                    )


def _bare(key: str) -> str:
    """A class key without what spellings differ in: case, joints and number."""
    return "".join(letter for letter in key.lower() if letter.isalnum()).removesuffix("s")


def _rule(values: Any, where: str) -> Rule:
    """One rule from plain values.

    Raises:
        OptionError: If a key is misspelt, missing, given beside another selector or of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise OptionError(f"must be a group such as '{{sector: energy, action: exclude}}', not {values!r}")
    for key in values:
        if key not in _RULE_KEYS:
            raise UnknownNameError("key", str(key), _RULE_KEYS)
    kinds = [kind for kind in _KINDS if kind in values]
    if len(kinds) != 1:
        given = " and ".join(kinds) or "none"
        raise OptionError(f"needs exactly one of {', '.join(_KINDS)} to say which classes it means (given: {given})")
    if values.get("action") not in _ACTIONS:
        raise UnknownNameError("action", str(values.get("action")), _ACTIONS)
    names = values[kinds[0]]
    rest = {key: value for key, value in values.items() if key not in _KINDS}
    listed = (names,) if isinstance(names, str) else names
    rule = parse_options(Rule, {"kind": kinds[0], "names": listed, "where": where, **rest})
    if rule.names == ():
        raise OptionError(f"'{kinds[0]}' names nothing; name at least one")
    if (rule.action == "coarsen") != (rule.into is not None):
        raise OptionError("'into: NAME' belongs to action coarsen, and to it alone")
    return rule


def _nearest(name: str, known: Collection[str]) -> str:
    """The nearest known name, or all of them if they are few: five datasets have a hundred."""
    told, listed, _ = suggestion(name.strip("*?"), known).partition(" (known:")
    if len(known) <= _LISTED:
        return suggestion(name.strip("*?"), known)
    return told if listed else "no class of any known dataset is near it"
