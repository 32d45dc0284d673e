"""A plain rule for what counts as an English caption."""

from __future__ import annotations

import re

# A caption in another alphabet, or a string of symbols, fails this.
_LEAST_ASCII = 0.9
# Shorter phrases ("green fields") may do without any of the words below.
_LONG = 8
# The commonest words of English that no other language written in these letters uses as often.
_COMMON = frozenset(
    ["the", "of", "with", "and", "is", "are", "in", "by", "to", "it", "this", "that", "there", "from", "which", "an"]
    + ["some", "many", "several", "near", "their", "has", "have", "its", "between", "surrounded", "next"]
)


def tidy(text: str) -> str:
    """Text on one line, without spaces to spare."""
    return " ".join(text.split())


def is_english(text: str) -> bool:
    """Whether a caption can pass for English.

    It needs a letter; nine letters in ten must be a to z; and a caption of eight words or more must
    hold one of the commonest English words. The rule is coarse on purpose: it catches empty answers,
    other alphabets, other languages and noise, and needs no model.
    """
    letters = [character for character in text if character.isalpha()]
    if not letters or sum(character.isascii() for character in letters) < _LEAST_ASCII * len(letters):
        return False
    words = re.findall(r"[a-z]+", text.lower())
    return len(words) < _LONG or not _COMMON.isdisjoint(words)
