"""Taking out of a text what must not leave the building: excluded terms, and what tells a place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
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


# Up to a full stop that a blank follows: "12.5 m" is within a sentence.
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s)|\n|\Z)", re.DOTALL)

_DEGREES = r"-?\d{1,3}(?:[.,]\d+)?\s*(?:\u00b0|\u00ba|degrees?|deg\b)"
_MINUTES = r"(?:\s*\d{1,2}(?:[.,]\d+)?\s*(?:['\u2032\u2019]|minutes?\b|min\b))?"
_SECONDS = r"(?:\s*\d{1,2}(?:[.,]\d+)?\s*(?:[\"\u2033\u201d]|''|seconds?\b|sec\b))?"
_SIDE = r"(?:\s*(?:north|south|east|west|[NSEW])\b)?"
_COORDINATES = (
    # 48°51'24"N, 2.35 degrees east
    rf"{_DEGREES}{_MINUTES}{_SECONDS}{_SIDE}",
    # 48.8566 N, 2.3522 E
    r"-?\d{1,3}\.\d+\s*[NSEW]\b",
    # 48.8566, 2.3522
    r"[-+]?\d{1,3}\.\d{2,}\s*[,;/ ]\s*[-+]?\d{1,3}\.\d{2,}",
    # 31U DQ 48251 11932, 31N 448251 5411932
    r"\b\d{1,2}[C-HJ-NP-Xc-hj-np-x]\s?[A-HJ-NP-Za-hj-np-z]{2}\s?\d{2,5}\s?\d{2,5}\b",
    r"\b\d{1,2}\s?[NSC-X]\s+\d{5,7}(?:\.\d+)?\s+\d{6,8}(?:\.\d+)?\b",
    r"\b(?:EPSG|CRS|UTM|MGRS|WGS)[:\s-]*\w*\d\w*",
    r"\b(?:lat(?:itude)?|lon(?:gitude)?|lng|northing|easting)\b\.?(?:\s*(?:of|is|[:=]))?\s*[-+]?\d[\d.,]*",
    # Postal codes, file numbers, eastings: no caption needs a number of five digits or more.
    r"\b\d{5,}(?:[.,]\d+)?\b",
)
_PLACE = re.compile("|".join(f"(?:{pattern})" for pattern in _COORDINATES), re.IGNORECASE)
_LARGE = r"[A-Z\u00c0-\u00d6\u00d8-\u00de][\w'\u2019\-]*"
# "Charles de Gaulle", "Rio de Janeiro": small words that stand within names.
_NAME = re.compile(
    rf"\b{_LARGE}(?:\s+(?:(?:de|del|della|di|da|do|dos|du|la|le|of\s+the|of|van|von|am|al)\s+)*{_LARGE})*"
)
_OPENING = frozenset({"a", "an", "the", "this", "these", "several", "many", "some", "two", "three"})
# Sensors, colours and methods are written large, too, and tell no place.
_NO_NAME = frozenset(
    {"rgb", "nir", "swir", "sar", "ndvi", "gsd", "uav", "earth", "i"}
    | {"sentinel", "sentinel-1", "sentinel-2", "landsat", "landsat-8", "landsat-9"}
)


def find_terms(text: str, terms: Iterable[str], keep: Iterable[str] = ()) -> list[str]:
    """The terms that a text holds, as they are spelt there, in order.

    Upper and lower case, singular and plural, and blanks, hyphens or nothing between the words
    of a term make no difference; a term within another word (``port`` in ``airport``) is none.

    Args:
        text: What to search.
        terms: Class keys or readable names.
        keep: Names that may stay although a term is a part of them.
    """
    pattern = term_pattern(terms, keep)
    if pattern is None:
        return []
    return [match["term"] for match in pattern.finditer(text) if match["term"] is not None]


def scrub(text: str, terms: Iterable[str], keep: Iterable[str] = ()) -> str:
    """A text without the sentences that hold a term; a text that holds none comes back as it is.

    Args:
        text: A caption or a sentence of metadata.
        terms: Class keys or readable names.
        keep: Names that stay although a term is a part of them.
    """
    pattern = term_pattern(terms, keep)
    if pattern is None:
        return text
    # What is left can form a term anew across two sentences; each round leaves fewer of them.
    while spans := [match.span() for match in pattern.finditer(text) if match["term"] is not None]:
        text = _without_sentences(text, spans)
    return text


def scrub_identifying(text: str, keep: Iterable[str] = ()) -> str:
    """A text without the sentences that hold coordinates, long numbers or proper names, which could tell a place.

    A word written large within a sentence counts as a name, and so do two of them at its start;
    one at the start alone cannot be told from any other word. Rather too much goes than too little.

    Args:
        text: A caption or a sentence of metadata.
        keep: Words written large that are no names of places, besides sensors and colours.
    """
    known = _NO_NAME | {word.lower() for name in keep for word in name.split()}
    spans = [match.span() for match in _PLACE.finditer(text)]
    spans += [match.span() for match in _NAME.finditer(text) if _tells_a_place(match, known)]
    return _without_sentences(text, spans) if spans else text


def _without_sentences(text: str, spans: Collection[tuple[int, int]]) -> str:
    """Text without the sentences that overlap any of the spans."""
    left = [
        sentence[0].strip()
        for sentence in _SENTENCE.finditer(text)
        if not any(start < sentence.end() and end > sentence.start() for start, end in spans)
    ]
    return " ".join(left)


def _tells_a_place(match: re.Match[str], known: frozenset[str]) -> bool:
    """Whether a run of words written large is a name: it does more than begin a sentence, and is no known word."""
    name, before = match[0], match.string[: match.start()].rstrip(" \t\"'(\u2018\u201c")
    words = [word.lower() for word in re.findall(r"[\w-]+", name)]
    opens = not before or before[-1] in ".!?:\n"
    if opens and (len(words) == 1 or words[0] in _OPENING):
        words = words[1:]
    return any(word not in known for word in words)
