"""The table of captions, and the captioners that need no model: template and attributes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rsdistill.bands import get_bands
from rsdistill.captions import Captions, create_captioner, list_captioners
from rsdistill.captions.attributes import measure
from rsdistill.classes import ClassInfo
from rsdistill.datasets import SceneData, SceneSource, SceneView
from rsdistill.errors import ArtifactError, OptionError, UnknownNameError

TABLE = Captions(
    (("a river\u2028by fields", "blue water"), ("forêt dense",)), "train", "file", "sha256:1", "What?", {"unused": 2}
)


def test_all_captioners_are_listed():
    assert list_captioners() == ["attributes", "file", "template", "vlm"]


def test_a_misspelt_captioner_or_option_is_named():
    with pytest.raises(UnknownNameError, match="captioner 'templat': did you mean 'template'"):
        create_captioner("templat")
    with pytest.raises(UnknownNameError, match="did you mean 'templates'"):
        create_captioner("template", template="{name}")
    with pytest.raises(OptionError, match=r"captioner.vlm.batch.*greater than or equal to 1"):
        create_captioner("vlm", model="x", batch=0)
    with pytest.raises(OptionError, match="'vlm' needs option model"):
        create_captioner("vlm")
    with pytest.raises(OptionError, match="'file' needs option path"):
        create_captioner("file")


def test_a_table_comes_back_equal(tmp_path):
    path = TABLE.save(tmp_path / "captions.jsonl")
    back = Captions.load(path)
    assert back == TABLE and back.digest == TABLE.digest
    assert list(back) == ["a river\u2028by fields", "forêt dense"] and back[1] == "forêt dense" and len(back) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["captions.jsonl"]
    assert back.provenance()["model"] == "sha256:1" and back.provenance()["digest"] == TABLE.digest


def test_the_digest_is_of_texts_and_origin():
    others = [replace(TABLE, prompt="Why?"), replace(TABLE, model="sha256:2"), TABLE.map(str.upper)]
    assert len({table.digest for table in (TABLE, *others)}) == 4


def test_an_altered_table_is_refused(tmp_path):
    path = TABLE.save(tmp_path / "captions.jsonl")
    path.write_text(path.read_text("utf-8").replace("dense", "sparse"), "utf-8")
    with pytest.raises(ArtifactError, match=r"captions.jsonl were altered"):
        Captions.load(path)


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"format": "other/1", "chips": 0}'])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "captions.jsonl"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=r"captions.jsonl cannot be read.*make them again"):
        Captions.load(path)


def test_a_cut_table_is_refused(tmp_path):
    path = TABLE.save(tmp_path / "captions.jsonl")
    path.write_text("\n".join(path.read_text("utf-8").split("\n")[:2]), "utf-8")
    with pytest.raises(ArtifactError, match="not a whole table"):
        Captions.load(path)


@pytest.mark.parametrize("texts", [((),), (("a river", " "),)])
def test_a_chip_without_words_is_refused(texts):
    with pytest.raises(ArtifactError, match="train chip 0 is empty"):
        Captions(texts, "train", "file")


def test_the_template_names_the_class(tiny_data):
    captions = create_captioner("template").caption(tiny_data)
    assert captions.texts == tuple(
        (f"A satellite image of {tiny_data.classes[c].name}",) for c in tiny_data.train.labels
    )


def test_several_templates_are_dealt_out_within_each_class(tiny_data):
    templates = ("A satellite image of {name}", "{name} from above", "An aerial photo of {name}")
    captions = create_captioner("template", templates=templates).caption(tiny_data)
    assert captions == create_captioner("template", templates=templates).caption(tiny_data)
    counts = {text: list(captions).count(text) for text in captions}
    assert len(counts) == 9 and set(counts.values()) == {3}


@pytest.mark.parametrize("templates", ["A satellite image", "{place}", ("{name}", "{"), ()])
def test_templates_without_the_name_are_refused(tiny_data, templates):
    with pytest.raises(OptionError, match="template"):
        create_captioner("template", templates=templates).caption(tiny_data)


class Drawn(SceneSource):
    """Chips given as an array, in one class."""

    name, gsd, licence, citation = "drawn", 1.0, "CC0-1.0", "none"
    classes = (ClassInfo("scene", "scene"),)

    def __init__(self, images, bands):
        self.images, self.bands = images, bands
        self.labels = np.zeros(len(images), np.int64)
        self.chip_ids = [f"scene_{i}" for i in range(len(images))]

    def read(self, index):
        return self.images[index]


def drawn(images, train, sensor="rgb"):
    source = Drawn(np.asarray(images), get_bands(sensor))
    rest = np.arange(train, len(images))
    return SceneData(source, SceneView(source, np.arange(train)), SceneView(source, rest), SceneView(source, rest[:0]))


def colour(red, green, blue):
    """A chip of one colour with a little noise, so that texture exists."""
    noise = np.random.default_rng(red + green + blue).integers(-3, 4, (3, 16, 16))
    return np.clip(np.array([red, green, blue])[:, None, None] + noise, 0, 255).astype(np.uint8)


GREEN, BROWN, GREY, BLUE = colour(40, 200, 40), colour(160, 90, 40), colour(120, 120, 120), colour(30, 50, 220)


def test_attributes_say_what_sets_a_chip_apart():
    captions = create_captioner("attributes").caption(drawn([GREEN, BROWN, GREY, BLUE], 4))
    assert all(text.startswith("A satellite image of scene, ") for text in captions)
    assert "mostly green" in captions[0] and "brown and red colours" in captions[1]
    assert "bright" in captions[2].split(", ") and "bluish, cool colours" in captions[3]
    assert not any("water" in text for text in captions)


def test_attributes_are_relative_to_train_alone():
    alone = create_captioner("attributes").caption(drawn([GREEN, BROWN, GREY], 3))
    beside = create_captioner("attributes").caption(drawn([GREEN, BROWN, GREY, BLUE, BLUE], 3))
    assert alone == beside
    described = create_captioner("attributes").caption(drawn([BROWN, GREY, BROWN, GREEN], 3), "val")
    assert "mostly green" in described[0]


def test_a_measure_that_does_not_vary_says_nothing():
    captions = create_captioner("attributes").caption(drawn([GREY, GREY, GREY], 3))
    assert set(captions) == {"A satellite image of scene"}


def test_attributes_within_a_class_tell_its_chips_apart(tiny_data):
    whole, within = (create_captioner("attributes", relative_to=to).caption(tiny_data) for to in ("dataset", "class"))
    labels = tiny_data.train.labels
    for word in ("dark", "bright"):
        told = [word in text.split(", ") for text in within]
        assert np.bincount(labels[told], minlength=3).tolist() == [3, 3, 3]
    assert whole != within and within == create_captioner("attributes", relative_to="class").caption(tiny_data)


def stripes(period):
    line = np.where(np.arange(32) // period % 2, 200, 50).astype(np.uint8)
    return np.tile(line, (3, 32, 1))


def test_measures_know_texture_and_direction():
    random = np.random.default_rng(0).integers(50, 200, (1, 32, 32), np.uint8).repeat(3, axis=0)
    found = measure(np.stack([stripes(1), stripes(8), random]), get_bands("rgb"))
    assert found["fineness"][1] < found["fineness"][2]
    assert found["linearity"][1] == pytest.approx(1) and found["linearity"][2] < 0.1
    assert found["vegetation"] == pytest.approx(0) and found["warmth"] == pytest.approx(0)


def test_measures_do_not_depend_on_how_a_chip_is_turned(tiny_data):
    chips = tiny_data.train.images(np.arange(6))
    upright = measure(chips, tiny_data.bands)
    for view in (np.rot90(chips, 1, (2, 3)), chips[..., ::-1], np.rot90(chips, 3, (2, 3))[..., ::-1]):
        turned = measure(view, tiny_data.bands)
        for name, values in upright.items():
            np.testing.assert_allclose(turned[name], values, rtol=1e-6, atol=1e-9, err_msg=name)


def test_water_is_told_by_its_share():
    bands = get_bands("bgrn")
    land, water = np.array([300, 500, 1000, 3000]), np.array([900, 800, 400, 100])
    chips = np.empty((4, 4, 10, 10), np.uint16)
    for chip, share in zip(chips, (0, 1, 3, 8), strict=True):
        chip[:], chip[:, :share] = land[:, None, None], water[:, None, None]
    texts = list(create_captioner("attributes").caption(drawn(chips, 4, "bgrn")))
    for text, word in zip(texts, (None, "some water", "much water", "mostly water"), strict=True):
        assert (word in text.split(", ")) if word else ("water" not in text)
    assert bands == drawn(chips, 4, "bgrn").bands


def test_chips_without_measurements_get_no_nan():
    chips = np.zeros((3, 4, 8, 8), np.uint16)
    found = measure(chips, get_bands("bgrn"))
    assert all(np.isfinite(values).all() for values in found.values())


def test_tables_name_no_chip(tiny_data, tmp_path):
    for name in ("template", "attributes"):
        text = create_captioner(name).caption(tiny_data).save(tmp_path / f"{name}.jsonl").read_text("utf-8")
        assert not any(chip in text for chip in tiny_data.source.chip_ids)
        assert json.loads(text.split("\n")[0])["captioner"] == name
