"""DPD with captions: each prototype's prompt comes from its own cluster, and is what the tile is drawn by."""

from __future__ import annotations

import json
from string import ascii_letters

import numpy as np
import pytest
from helpers.method_fixtures import table_of

from rsdistill.captions import Captions, class_prompts
from rsdistill.diffusion.prototypes import Prototypes
from rsdistill.distillers import create_distiller

WORDS = ("frozen", "flooded", "ploughed", "misty")
OPTIONS = {
    "teacher": {"width": 8, "blocks": 1, "steps": 3},
    "training": {"steps": 3, "batch": 8},
    "prototypes": {"k": 2},
    "sampling": {"steps": 2},
    "candidates": 2,
}


@pytest.fixture(scope="module")
def captions(tiny_data):
    """Every chip named apart, with one of a few attributes."""
    names = [tiny_data.classes[label].name for label in tiny_data.train.labels]
    texts = [(f"A picture of {name}: {WORDS[n % 4]} ground, secret{ascii_letters[n]}",) for n, name in enumerate(names)]
    return Captions(tuple(texts), "train", "file")


@pytest.fixture(scope="module")
def method(tiny_data, tiny_latents, captions, quiet):
    return create_distiller("dpd", **OPTIONS).fit(tiny_data, tiny_latents, trainer=quiet, captions=captions)


def test_prompts_say_what_most_of_the_cluster_says(method, tiny_data, captions):
    table, heads = table_of(method, 2), class_prompts(tiny_data.classes)
    assert len(table.prompt) == len(table.members) == 6
    for prompt, label, members in zip(table.prompt, table.label, table.members, strict=True):
        assert all(tiny_data.train.labels[members] == label) and prompt.startswith(heads[label])
        said = [captions[int(chip)] for chip in members]
        for word in WORDS:
            if word in prompt:
                assert sum(word in text for text in said) >= len(said) / 3
        assert len(said) > 1 and "secret" not in prompt
    counted = np.array([len(members) for members in table.members])
    assert np.array_equal(counted, table.cluster_size)
    assert np.array_equal(np.sort(np.concatenate(table.members)), np.arange(len(tiny_data.train)))
    assert len({*table.prompt}) > 3


def test_tiles_carry_their_prompt_and_the_captions_origin(method, captions):
    made = method.distill(2)
    assert made.caption == table_of(method, 2).prompt
    assert made.manifest["captions"] == captions.provenance()
    assert made.manifest["prototypes"]["prompts_shortened"] == made.manifest["prototypes"]["prompts_bare"] == 0
    assert made.manifest["options"]["aggregation"]["kind"] == "frequency"
    assert "secret" not in json.dumps([made.manifest, list(made.caption)])


def test_the_prompt_decides_what_is_drawn(method):
    table = table_of(method, 2)
    made = method.distill(2)
    method.table_ = 2, Prototypes(**{**vars(table), "prompt": table.prompt[::-1]})
    try:
        assert not np.array_equal(method.distill(2).image, made.image)
    finally:
        method.table_ = 2, table


def test_a_table_with_prompts_comes_back_and_names_no_chip(method, tmp_path):
    table = table_of(method, 2)
    table.to_xarray().to_netcdf(tmp_path / "table.nc", engine="h5netcdf")
    loaded = Prototypes.load(tmp_path / "table.nc")
    assert loaded.prompt == table.prompt and loaded.summary() == table.summary()
    assert not loaded.members and "members" not in table.to_xarray() and "members" not in repr(table)


def test_without_captions_prompts_are_the_classes_own(tiny_dpd, tiny_data):
    table = table_of(tiny_dpd, 2)
    assert table.prompt == tuple(np.repeat(class_prompts(tiny_data.classes), 2))
    assert "prompts_bare" not in table.summary()


def test_the_model_that_captioned_sums_up(tiny_data, tiny_latents, captions):
    method = create_distiller("dpd", **OPTIONS, aggregation={"kind": "llm"})
    method.attach(tiny_data, tiny_latents, captions, write=lambda request: f"{len(request.splitlines())} lines")
    prompts = table_of(method, 1).prompt
    assert prompts[0] == f"{class_prompts(tiny_data.classes)[0]}: 11 lines"
