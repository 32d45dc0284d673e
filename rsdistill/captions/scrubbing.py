"""Captions under a policy: what must not be said goes before a caption is written down or learned from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rsdistill.captions.base import Captions
from rsdistill.sensitive.scrub import scrub, scrub_identifying


def scrub_captions(
    captions: Captions,
    labels: NDArray[np.int64],
    prompts: Sequence[str],
    terms: Iterable[str] = (),
    keep: Iterable[str] = (),
) -> Captions:
    """Captions without excluded terms, names of places, coordinates and long numbers.

    Args:
        captions: Captions of a view.
        labels: Class positions of its chips, (n,).
        prompts: Class prompts, for chips of which no word is left.
        terms: Excluded class keys and names.
        keep: Names of the classes that stay, although a term may be a part of one.

    Returns:
        The captions, whose figures tell how many sentences were ``scrubbed`` and how many chips
        were left with their class prompt (``emptied``).
    """
    terms, keep = tuple(terms), tuple(keep)
    texts, scrubbed, emptied = [], 0, 0
    for sentences, label in zip(captions.texts, labels, strict=True):
        clean = [scrub_identifying(scrub(text, terms, keep), keep).strip() for text in sentences]
        scrubbed += sum(new != old.strip() for new, old in zip(clean, sentences, strict=True))
        left = tuple(text for text in clean if any(character.isalpha() for character in text))
        emptied += not left
        texts.append(left or (prompts[label],))
    return replace(captions, texts=tuple(texts), figures={**captions.figures, "scrubbed": scrubbed, "emptied": emptied})
