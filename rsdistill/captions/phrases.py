"""Terms of captions: words and pairs of words, merged by stem and synonym, weighed by class-based TF-IDF."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from rsdistill.errors import OptionError
from rsdistill.utils.io import YamlKind, read_yaml

Key = tuple[str, ...]

_TABLE = YamlKind("table of words", OptionError, "install the package again", "'synonyms:', 'empty:' and 'kept:'")
_WORDS = read_yaml(Path(__file__).with_name("words.yaml"), _TABLE).values
_FIRST_SYNONYM: dict[str, str] = {word: group[0] for group in _WORDS["synonyms"] for word in group}
_STOP_WORDS = ENGLISH_STOP_WORDS.union(_WORDS["empty"]).difference(_WORDS["kept"])

# What follows is not to be seen, so none of it may describe the cluster.
_NEGATIONS = frozenset(("no", "not", "without", "lacking", "lacks"))
_ARTICLES = frozenset(("a", "an", "the"))
# A clause of so few words is a description in itself: "no main direction", "brown and red colours".
_SHORT_CLAUSE = 4

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_CLAUSES = re.compile(r"[^\w\s'\u2019-]+")


@dataclass(frozen=True)
class Term:
    """A word, a pair of words or a short clause that stands out in a cluster.

    Attributes:
        text: Its most common spelling in the cluster.
        key: Its words, each as stem or first synonym.
        chips: How many of the cluster's chips it is said of.
        score: Class-based TF-IDF.
    """

    text: str
    key: Key
    chips: int
    score: float


def stem(word: str) -> str:
    """A word without its plural ending, by the three rules of Harman's S stemmer (JASIS 42(1), 1991)."""
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word


def word_key(word: str) -> str:
    """What stands for a word: its stem, or the first of its synonyms."""
    stemmed = stem(word.lower())
    return _FIRST_SYNONYM.get(stemmed, _FIRST_SYNONYM.get(word.lower(), stemmed))


def weigh_terms(clusters: Sequence[Sequence[Sequence[str]]], names: Sequence[str]) -> list[list[Term]]:
    """Terms of each cluster with their class-based TF-IDF, best first.

    With one "document" a cluster, the weight of term x in cluster c is ``tf(x, c)·log(1 + A/f(x))``:
    tf is the share of x among the terms of c, f how often x stands in all clusters and A the mean
    number of terms of a cluster (Grootendorst, arXiv 2203.05794). A chip counts a term once,
    however many of its sentences hold it. Words of the class name are left out: every prompt of
    the class says them anyway.

    Args:
        clusters: For each cluster, for each of its chips, its sentences.
        names: Readable class name of each cluster.

    Returns:
        Terms of each cluster, by falling score, then by text.
    """
    counts, spellings = [], []
    for chips, name in zip(clusters, names, strict=True):
        known = {word_key(word) for word in _WORD.findall(name)}
        count: Counter[Key] = Counter()
        spelling: Counter[tuple[Key, str]] = Counter()
        for sentences in chips:
            found = {term for sentence in sentences for term in _terms_of(sentence, known)}
            count.update({key for key, _ in found})
            spelling.update(found)
        counts.append(count)
        spellings.append(spelling)
    overall = sum(counts, Counter())
    mean = overall.total() / max(1, len(counts))
    return [_ranked(count, spelling, overall, mean) for count, spelling in zip(counts, spellings, strict=True)]


def choose_terms(terms: Sequence[Term], most: int, least_chips: int) -> list[Term]:
    """Terms that describe a cluster together, none saying again what another says.

    A pair or clause is taken in place of a word of it where it is said of half as many chips or more:
    "dry fields" rather than "fields".

    Args:
        terms: Terms of the cluster, best first.
        most: How many to choose at most.
        least_chips: Chips that a term must be said of.
    """
    often = [term for term in terms if term.chips >= least_chips]
    chosen: list[Term] = []
    for term in often:
        if len(chosen) == most:
            break
        if _repeats(term, chosen):
            continue
        wider = (other for other in often if set(term.key) < set(other.key) and 2 * other.chips >= term.chips)
        fitting = [term, *(other for other in wider if not _repeats(other, chosen))]
        chosen.append(max(fitting, key=lambda other: len(other.key)))
    return chosen


def _ranked(count: Counter[Key], spelling: Counter[tuple[Key, str]], overall: Counter[Key], mean: float) -> list[Term]:
    texts: dict[Key, str] = {}
    for (key, text), _ in sorted(spelling.items(), key=lambda item: (-item[1], item[0])):
        texts.setdefault(key, text)
    total = max(1, count.total())
    terms = [
        Term(texts[key], key, chips, chips / total * math.log(1.0 + mean / overall[key]))
        for key, chips in count.items()
    ]
    # Rounded, so that sums in another order do not swap equals.
    return sorted(terms, key=lambda term: (-round(term.score, 12), term.text))


def _terms_of(sentence: str, known: set[str]) -> Iterator[tuple[Key, str]]:
    """Short clauses, pairs of neighbouring words and words of a sentence that say something, with their spelling."""
    for clause in _CLAUSES.split(sentence.lower()):
        words = [word for word in _WORD.findall(clause) if word not in _ARTICLES]
        keys = [word_key(word) for word in words]
        meaningful = [word not in _STOP_WORDS and len(word) > 1 for word in words]
        if 1 < len(words) <= _SHORT_CLAUSE and any(meaningful) and known.isdisjoint(keys):
            yield tuple(keys), " ".join(words)
        yield from _words_and_pairs(clause, known)


def _words_and_pairs(clause: str, known: set[str]) -> Iterator[tuple[Key, str]]:
    before: tuple[str, str] | None = None
    end = 0
    for match in _WORD.finditer(clause):
        word, key = match.group(), word_key(match.group())
        if word in _NEGATIONS:
            return
        if clause[end : match.start()].strip():
            before = None
        end = match.end()
        if word in _STOP_WORDS or key in known or len(word) == 1:
            before = None
            continue
        yield (key,), word
        if before and before[0] != key:
            yield (before[0], key), f"{before[1]} {word}"
        before = key, word


def _repeats(term: Term, chosen: Iterable[Term]) -> bool:
    """Whether a chosen term says the same thing: what it is about comes last in English."""
    return any(term.key[-1] in other.key or other.key[-1] in term.key for other in chosen)
