"""Taking phrases out of an English sentence so that what is left still reads well.

Captions are short and plain; a few lists of words do for them what a parser would do for prose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GAP = "\x00"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARTICLES = _words("a an")
_DETERMINERS = _ARTICLES | _words(
    "the this that these those some several many few various numerous multiple both each every any no its their "
    "one two three four five six seven eight nine ten"
)
_PREPOSITIONS = _words(
    "of in on at by with without near beside besides next to from for between among along across around over under "
    "behind beyond inside outside within into onto through toward towards off above below against past via "
    "featuring including containing showing like as per"
)
# Words that belong to the preposition after them: "next to", "in front of".
_LEADING = _words("next close adjacent front such together along")
_JOINING = _words("and or & nor plus")
_OTHER = _words("but while where which who whose when there it they he she also not only then than so")
_VERBS = _words(
    "is are was were be been being has have had shows show showing contains contain features feature includes include "
    "lies lie stands stand sits sit runs run crosses cross occupies occupy surrounds surround fills fill dominates "
    "dominate borders border covers cover appears appear extends extend can may must will seen taken"
)
_FUNCTION = _DETERMINERS | _PREPOSITIONS | _JOINING | _OTHER | _VERBS
_ENDS = frozenset(".!?;:")
_CLOSING = _ENDS | frozenset(",)]")
_TOKEN = re.compile(rf"{GAP}[sL]*|\w+(?:['\u2019\-]\w+)*|[^\w\s]", re.UNICODE)


@dataclass
class _Token:
    """A word or a mark, and the blanks before it."""

    text: str
    blank: str

    @property
    def word(self) -> str:
        return self.text.lower()

    @property
    def is_gap(self) -> bool:
        return self.text.startswith(GAP)

    @property
    def is_large(self) -> bool:
        return self.text.endswith("L") if self.is_gap else self.text[:1].isupper()

    @property
    def is_content(self) -> bool:
        return self.text[0].isalnum() and self.word not in _FUNCTION


def close_gaps(text: str, neutral: str = "area") -> str:
    """Text without its gaps.

    A gap before another noun goes alone; one that ends a noun phrase goes with its phrase and
    with what tied it to the sentence. Where the sentence needs it, ``neutral`` takes its place.

    Args:
        text: Holds a :func:`gap` for each phrase taken out.
        neutral: What to say instead; empty for nothing.
    """
    tokens = _merged(_tokens(text))
    large = bool(tokens) and tokens[0].is_large
    while (at := next((i for i, token in enumerate(tokens) if token.is_gap), None)) is not None:
        _close(tokens, at, neutral)
    _tidy(tokens)
    if large and tokens:
        tokens[0].text = tokens[0].text[:1].upper() + tokens[0].text[1:]
    return "".join(token.blank + token.text for token in tokens)


def gap(phrase: str, plural: bool = False) -> str:
    """What stands for a phrase taken out: it remembers number and capital letter."""
    return GAP + ("s" if plural else "") + ("L" if phrase[:1].isupper() else "")


def _tokens(text: str) -> list[_Token]:
    tokens, end = [], 0
    for match in _TOKEN.finditer(text):
        tokens.append(_Token(match[0], text[end : match.start()]))
        end = match.end()
    return tokens


def _merged(tokens: list[_Token]) -> list[_Token]:
    """Gaps that follow each other, listed or not, as one."""
    merged: list[_Token] = []
    for token in tokens:
        if token.is_gap and merged:
            joints = 0
            while joints < len(merged) and (merged[-1 - joints].word in _JOINING or merged[-1 - joints].text in ",-"):
                joints += 1
            if joints < len(merged) and merged[-1 - joints].is_gap:
                del merged[len(merged) - joints :]
                merged[-1].text = token.text
                continue
        merged.append(token)
    return merged


def _close(tokens: list[_Token], at: int, neutral: str) -> None:
    """Take one gap out, with as much of its phrase as must go."""
    right = tokens[at + 1] if at + 1 < len(tokens) else None
    if right is not None and right.is_content:
        _remove(tokens, at, at + 1)
        _fit_article(tokens, at)
        return
    start = _phrase_start(tokens, at)
    left = tokens[start - 1] if start else None
    joined = left is not None and (left.word in _JOINING or left.text == ",")
    before_verb = right is not None and right.word in _VERBS
    if not joined and _goes_on(tokens, start, at):
        _remove(tokens, start, at + 2)
        _fit_article(tokens, start + 1)
    elif left is not None and left.word in _PREPOSITIONS:
        _remove(tokens, _preposition_start(tokens, start - 1), at + 1)
    elif joined and not before_verb:
        _remove(tokens, start - 1, at + 1)
    elif not neutral or len(tokens) == 1 or left is not None and left.text in "([":
        _remove(tokens, start, at + 1)
    else:
        _replace(tokens, at, neutral)


def _goes_on(tokens: list[_Token], start: int, at: int) -> bool:
    """Whether a gap is followed by the next part of its list: "with GAP and a river", "with GAP, a road and ..."."""
    after = [token.word for token in tokens[at + 1 : at + 3]]
    if len(after) < 2:
        return False
    opens = start < 2 or tokens[start - 2].text in _ENDS
    return after[0] in _JOINING or (after[0] == "," and after[1] in _DETERMINERS and not opens)


def _replace(tokens: list[_Token], at: int, neutral: str) -> None:
    """Put the neutral word in a gap's place, in its number and with its capital letter."""
    token = tokens[at]
    word = f"{neutral}s" if "s" in token.text else neutral
    token.text = word.capitalize() if token.is_large and _opens(tokens, at) else word
    _fit_article(tokens, at)


def _opens(tokens: list[_Token], at: int) -> bool:
    """Whether a position begins a sentence."""
    return at == 0 or tokens[at - 1].text in _ENDS


def _phrase_start(tokens: list[_Token], at: int) -> int:
    """Where the noun phrase begins that a gap ends: at its determiner, or after the last function word."""
    start = at
    while start and tokens[start - 1].is_content:
        start -= 1
    while start and tokens[start - 1].word in _DETERMINERS:
        start -= 1
    return start


def _preposition_start(tokens: list[_Token], at: int) -> int:
    while at and (tokens[at - 1].word in _LEADING or tokens[at - 1].word in _PREPOSITIONS):
        at -= 1
    return at


def _remove(tokens: list[_Token], start: int, end: int) -> None:
    """Drop tokens; what follows takes over the blank before them, and the capital letter of a sentence."""
    first = tokens[start]
    large = first.is_large and _opens(tokens, start)
    del tokens[start:end]
    if start == len(tokens):
        return
    after = tokens[start]
    if start == 0 or (after.text not in _CLOSING and (first.is_gap or first.text[0].isalnum())):
        after.blank = first.blank
    if large and after.is_gap:
        after.text += "" if after.is_large else "L"
    elif large:
        after.text = after.text[:1].upper() + after.text[1:]


def _fit_article(tokens: list[_Token], at: int) -> None:
    """Make ``a`` or ``an`` before a position fit the word that now stands there."""
    if not 0 < at < len(tokens) or tokens[at - 1].word not in _ARTICLES:
        return
    fitting = "an" if tokens[at].word[0] in "aeiou" else "a"
    before = tokens[at - 1]
    before.text = fitting.capitalize() if before.text[0].isupper() else fitting


def _tidy(tokens: list[_Token]) -> None:
    """Drop what is left hanging: commas before an end, empty brackets, articles and prepositions before nothing."""
    at = len(tokens) - 1
    while at >= 0:
        token = tokens[at]
        after = tokens[at + 1] if at + 1 < len(tokens) else None
        at_end = after is None or after.text in _CLOSING
        hanging = at_end and (token.word in _DETERMINERS | _PREPOSITIONS | _JOINING or token.text == ",")
        leading = _opens(tokens, at) and (token.text == "," or token.word in _JOINING)
        empty = token.text in "([" and after is not None and after.text in ")]"
        if empty:
            del tokens[at + 1]
        if hanging or leading or empty:
            _remove(tokens, at, at + 1)
            at = len(tokens)
        at -= 1
    if all(not token.text[0].isalnum() for token in tokens):
        tokens.clear()
    if tokens:
        tokens[0].blank = ""
