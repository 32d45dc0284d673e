"""Tokenizer and text encoder of models trained from scratch, in CLIP's formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
_SUFFIX = "</w>"
_VOCABULARY = 2048
CAPTION_VOCABULARY = 8192


def build_tokenizer(prompts: Iterable[str], max_tokens: int, captions: Iterable[str] = ()) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges spell the words of the prompts and captions at hand.

    Every byte is in the vocabulary, so any later text can be encoded too.

    Args:
        prompts: Prompts of the classes.
        max_tokens: Longest sequence, start and end included.
        captions: Further texts; each of their words becomes one token, the most common ones first
            where there are too many.

    Returns:
        A tokenizer that ``transformers`` saves and loads like CLIP's own.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Words apart, as CLIP's own splitting has them: a blank never becomes part of a token.
    merges: Any = _merges(sorted({word for text in prompts for word in text.lower().split()}))
    counts = Counter(word for text in captions for word in text.lower().split())
    merges = _extended(merges, sorted(counts, key=lambda word: (-counts[word], word)))
    symbols = [*alphabet, *(letter + _SUFFIX for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys([*symbols, _START, _END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_tokens)


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int) -> CLIPTextModel:
    """A small CLIP text encoder for a tokenizer, with weights from torch's current random state."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that build each word from its start, in order.

    The trainer of ``tokenizers`` breaks ties at random, so that one seed would give several models.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for piece, _ in splitter.pre_tokenize_str(word):
            symbols = [*piece[:-1], piece[-1] + _SUFFIX]
            built = symbols[0]
            for symbol in symbols[1:]:
                merges[built, symbol] = None
                built += symbol
    return list(merges)[:_VOCABULARY]


def _extended(merges: list[tuple[str, str]], words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that make one token of each further word too, as many words as there is room for.

    What a word is spelt by so far is joined from its start. New merges come last, so that no word
    before is spelt otherwise.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for word in words:
        for piece, _ in splitter.pre_tokenize_str(word):
            built, *rest = _spelt([*piece[:-1], piece[-1] + _SUFFIX], ranks)
            for symbol in rest:
                ranks[built, symbol] = len(ranks)
                built += symbol
        if len(ranks) >= CAPTION_VOCABULARY:
            break
    return list(ranks)


def _spelt(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Symbols after all merges, the first in rank being carried out first, as byte-pair encoding does."""
    while True:
        pairs = [pair for pair in zip(symbols, symbols[1:], strict=False) if pair in ranks]
        if not pairs:
            return symbols
        first = min(pairs, key=ranks.__getitem__)
        joined, position = [], 0
        while position < len(symbols):
            if tuple(symbols[position : position + 2]) == first:
                joined.append("".join(first))
                position += 2
            else:
                joined.append(symbols[position])
                position += 1
        symbols = joined
