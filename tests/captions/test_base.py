"""Captions under a policy: excluded terms and places are gone, and every chip keeps words."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdistill.captions import Captions
from rsdistill.captions.base import scrub_captions
from rsdistill.sensitive.scrub import find_terms, scrub_identifying

PROMPTS = ["A satellite image of beach", "A satellite image of forest"]


def test_what_is_excluded_goes_and_every_chip_keeps_words():
    forest = ("Harbours.", "A green forest", "Near Lake Tahoe")
    texts = (("A beach. It lies beside a harbour.",), forest, ("harbour",))
    captions = Captions(texts, "train", "file", figures={"described": 3})
    clean = scrub_captions(captions, np.array([0, 1, 1]), PROMPTS, ["harbour"])
    said = " ".join(text for sentences in clean.texts for text in sentences).lower()
    assert "harbour" not in said and "tahoe" not in said
    assert (
        clean.texts[0] == ("A beach.",)
        and clean.texts[2] == (PROMPTS[1],)
        and any("green forest" in text for text in clean.texts[1])
    )
    assert all(clean.texts) and clean.figures["described"] == 3
    assert clean.figures["scrubbed"] == 4 and len(clean) == 3


def test_a_chip_without_words_gets_its_class_prompt():
    captions = Captions((("48.8566, 2.3522",), ("A green forest",)), "train", "file")
    clean = scrub_captions(captions, np.array([0, 1]), PROMPTS)
    assert clean.texts == ((PROMPTS[0],), ("A green forest",))
    assert clean.figures == {"scrubbed": 1, "emptied": 1}


def test_names_of_classes_that_stay_are_kept():
    captions = Captions((("An airport road by the car port",),), "train", "file")
    assert scrub_captions(captions, np.array([0]), PROMPTS, ["port"], ["car port"]).texts == captions.texts


def test_sentences_that_are_left_form_no_term():
    captions = Captions((("A storage\nin Paris\ntanks",),), "train", "file")
    assert scrub_captions(captions, np.array([0]), PROMPTS, ["storage tanks"]).texts == ((PROMPTS[0],),)


words = st.sampled_from(["A", "a", "green", "forest", "in Paris", "storage", "tanks", "harbour", "at 48.8566, 2.3522"])
sentences = st.lists(st.tuples(words, st.sampled_from([" ", ". ", "\n"])), min_size=1, max_size=12)
texts = sentences.map(lambda parts: "".join(word + mark for word, mark in parts).strip())


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=1, max_size=3))
def test_no_term_is_left_whatever_else_goes(chip):
    terms = ["storage tanks", "harbour"]
    captions = Captions((tuple(chip),), "train", "file")
    (clean,) = scrub_captions(captions, np.array([1]), PROMPTS, terms).texts
    assert clean and not any(find_terms(text, terms) for text in clean)
    if not any(find_terms(text, terms) or scrub_identifying(text) != text for text in chip):
        assert clean == tuple(chip)
