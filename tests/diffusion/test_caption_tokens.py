"""Training on captions: their words as tokens, one sentence of the chip's own a step, class prompts kept alive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rsdistill.captions import Captions, class_prompts
from rsdistill.diffusion import denoising
from rsdistill.diffusion.caption_tokens import CaptionTable, count_cut, sentences
from rsdistill.diffusion.denoising import DenoisingModule, DenoisingOptions, train_denoiser
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.text import build_tokenizer
from rsdistill.errors import ModelError

OPTIONS = DenoisingOptions(steps=4, batch=8)


@pytest.fixture(scope="module")
def prompts(tiny_data):
    return class_prompts(tiny_data.classes)


@pytest.fixture(scope="module")
def captions(tiny_data):
    """One to three sentences of each train chip; the first names its place in the view."""
    texts = [
        tuple(f"chip {place} seen {n} times" for n in range(1 + place % 3)) for place in range(len(tiny_data.train))
    ]
    return Captions(tuple(texts), "train", "file")


def build(codec, prompts, captions=None):
    return DiffusionModel.from_scratch("tiny", codec, prompts, 16, "v_prediction", 0, sentences(captions))


def weights(model):
    return torch.cat([p.detach().flatten() for p in [*model.unet.parameters(), *model.text_encoder.parameters()]])


def test_every_word_of_a_caption_is_one_token():
    captions = ["A broad river, ivory sand and driving vehicles", "park parking parked; naïve 光"]
    tokenizer = build_tokenizer(["A satellite image of river"], 32, captions)
    for word in "broad river , ivory sand driving vehicles park parking parked naïve satellite image".split():
        assert len(tokenizer(word).input_ids) == 3, word


def test_captions_leave_the_spelling_of_prompts_alone(prompts):
    plain, with_captions = build_tokenizer(prompts, 32), build_tokenizer(prompts, 32, ["ages, imagination, forests"])
    for prompt in prompts:
        assert plain.tokenize(prompt) == with_captions.tokenize(prompt)
    assert len(with_captions) > len(plain)
    assert build_tokenizer(prompts, 32, []).get_vocab() == plain.get_vocab()


def test_where_there_are_too_many_words_the_common_ones_are_tokens(monkeypatch):
    monkeypatch.setattr("rsdistill.diffusion.text.CAPTION_VOCABULARY", 4)
    tokenizer = build_tokenizer([], 32, ["zebra aardvark zebra"])
    assert len(tokenizer("zebra").input_ids) == 3 < len(tokenizer("aardvark").input_ids)


def test_latents_know_the_place_of_their_chip(tiny_latents, tiny_data):
    chips = np.asarray(tiny_latents.open()["chip"].values)
    for split, view in ((0, tiny_data.train), (1, tiny_data.val)):
        of_split = tiny_latents.split == split
        assert np.array_equal(view.indices[tiny_latents.chip[of_split]], chips[of_split])
    batch = tiny_latents.read(tiny_latents.positions("train", views=True)[[40, 3, 60]])
    assert np.array_equal(tiny_data.train.labels[batch.chip], batch.label)


def test_a_chip_is_shown_each_of_its_own_sentences(tiny_codec, prompts, captions):
    model = build(tiny_codec, prompts, captions)
    table = CaptionTable(model, captions, len(captions))
    assert len(table.ids) == len(set(sentences(captions)))
    chips = torch.tensor([5, 0, 1]).repeat_interleave(60)
    drawn = table.ids[table.draw(chips, torch.Generator().manual_seed(0))]
    for chip, own in ((5, 3), (0, 1), (1, 2)):
        ids = model.tokenize(captions.texts[chip])
        seen = [[torch.equal(row, each) for each in ids] for row in drawn[chips == chip]]
        assert len(ids) == own and all(sum(row) == 1 for row in seen)
        assert all(np.array(seen).sum(0) > 60 / own / 3)
    assert not list(table.state_dict())


def test_text_is_the_drawn_caption_the_class_prompt_or_nothing(
    tiny_codec, tiny_latents, prompts, captions, monkeypatch
):
    model = build(tiny_codec, prompts, captions)
    batch = tiny_latents.read(tiny_latents.positions("train")[[0, 3, 6, 9]])
    single = replace(captions, texts=tuple(texts[:1] for texts in captions.texts))
    empty = torch.tensor([False, True, False, False])

    def text(share):
        monkeypatch.setattr(denoising, "CLASS_PROMPT_SHARE", share)
        table = CaptionTable(model, single, len(single))
        module = DenoisingModule(model, model.tokenize([*prompts, ""]), OPTIONS, None, 0, table).eval()
        return module.embed_rows(module.text_rows(batch, empty, torch.Generator().manual_seed(0)))

    own = [single[int(chip)] for chip in batch.chip]
    for share, said in ((0.0, own), (1.0, [prompts[label] for label in batch.label])):
        said = ["" if gone else line for line, gone in zip(said, empty, strict=True)]
        torch.testing.assert_close(text(share), model.embed(said), rtol=1e-5, atol=1e-5)


def test_captions_that_say_the_class_prompt_train_the_same_model(tiny_codec, tiny_latents, tiny_data, prompts, quiet):
    said = Captions(tuple((prompts[label],) for label in tiny_data.train.labels), "train", "template")

    def train(captions):
        return weights(
            train_denoiser(build(tiny_codec, prompts), tiny_latents, prompts, OPTIONS, trainer=quiet, captions=captions)
        )

    torch.testing.assert_close(train(said), train(None), rtol=1e-3, atol=1e-4)


def test_captions_make_a_difference_and_their_seed_repeats_it(tiny_codec, tiny_latents, prompts, captions, quiet):
    def train(captions):
        model = build(tiny_codec, prompts, captions)
        return weights(train_denoiser(model, tiny_latents, prompts, OPTIONS, trainer=quiet, captions=captions))

    turned = replace(captions, texts=captions.texts[::-1])
    first = train(captions)
    assert torch.equal(first, train(captions)) and not torch.equal(first, train(turned))


def test_captions_of_other_chips_are_refused(tiny_codec, prompts, captions):
    model = build(tiny_codec, prompts)
    with pytest.raises(ModelError, match=rf"captions of {len(captions)} train chips do not fit 5 train chips"):
        CaptionTable(model, captions, 5)
    with pytest.raises(ModelError, match="val chips do not fit"):
        CaptionTable(model, replace(captions, split="val"), len(captions))


def test_captions_beyond_the_window_are_counted(tiny_codec, prompts):
    long = Captions((("short",), ("green fields " * 40,), ("green fields " * 40, "short")), "train", "file")
    assert count_cut(build(tiny_codec, prompts, long), long) == 1
