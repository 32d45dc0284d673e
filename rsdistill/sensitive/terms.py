"""Terms in running text: every spelling of a class name, in any case and number."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from rsdistill.classes import readable

# What may stand between the words of a name: "storage tanks", "storage-tanks", "storage_tanks", "storagetanks".
_JOINT = r"[\s_\-\u2010-\u2015]*"
_BEFORE, _AFTER = r"(?<![^\W\d_])", r"(?![^\W\d_])"
_SIBILANT = ("s", "x", "z", "ch", "sh")


def number_forms(word: str) -> set[str]:
    """A word with its singular and plural, in lower case: ``tank`` and ``tanks`` from either."""
    word = word.lower()
    singulars = {word}
    if is_plural(word):
        singulars = {word[:-1]}
        if word.endswith("ies"):
            singulars.add(word[:-3] + "y")
        elif word.endswith("ves"):
            singulars |= {word[:-3] + "f", word[:-3] + "fe"}
        elif word.endswith("es") and word[:-2].endswith(_SIBILANT):
            singulars.add(word[:-2])
    return {word} | {form for singular in singulars for form in (singular, _plural(singular))}


def is_plural(word: str) -> bool:
    """Whether a word looks like a plural; two letters are none, whatever they end with."""
    return len(word) > 2 and word.lower().endswith("s") and not word.lower().endswith(("ss", "us", "is"))


def _plural(word: str) -> str:
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return word[:-1] + "ies"
    if word.endswith(_SIBILANT):
        return word + "es"
    if word.endswith(("f", "fe")) and not word.endswith(("ff", "ffe")):
        return word.rstrip("e")[:-1] + "ves"
    return word + "s"


def term_pattern(terms: Iterable[str], keep: Iterable[str] = ()) -> re.Pattern[str] | None:
    """A pattern that finds terms, in the group ``term``; None where there is none to find.

    Args:
        terms: Keys or readable names, such as ``storagetanks`` or ``storage tanks``.
        keep: Names that stay although a term is a part of them, such as ``railway station``
            where ``railway`` is a term.
    """
    return _compiled(tuple(sorted(set(terms))), tuple(sorted(set(keep))))


@lru_cache(maxsize=64)
def _compiled(terms: tuple[str, ...], keep: tuple[str, ...]) -> re.Pattern[str] | None:
    spelled = _alternatives(terms)
    if not spelled:
        return None
    kept = _alternatives(keep)
    term = rf"(?P<term>{'|'.join(spelled)})(?:['\u2019]s?)?"
    either = f"(?:{'|'.join(kept)})|{term}" if kept else term
    return re.compile(f"{_BEFORE}(?:{either}){_AFTER}", re.IGNORECASE)


def _alternatives(names: Iterable[str]) -> list[str]:
    """Patterns of names, longest first, so that no name hides one that it begins."""
    spelled = {_spelled(tuple(re.findall(r"[^\W_]+", readable(name)))) for name in names} - {""}
    return sorted(spelled, key=lambda pattern: (-len(pattern), pattern))


def _spelled(words: tuple[str, ...]) -> str:
    if not words:
        return ""
    *first, last = words
    forms = [re.escape(word) for word in first]
    ends = "|".join(sorted((re.escape(form) for form in number_forms(last)), key=len, reverse=True))
    return _JOINT.join([*forms, f"(?:{ends})"])
