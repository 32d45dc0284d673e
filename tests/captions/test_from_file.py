"""Captions that a user has: formats, names of chips, and what does not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from rsdistill.bands import get_bands
from rsdistill.captions import create_captioner
from rsdistill.captions.from_file import UnusedCaptionsWarning, match_names, match_numbers, read_captions
from rsdistill.classes import ClassInfo
from rsdistill.datasets import SceneData, SceneSource, SceneView, load_prepared, prepare
from rsdistill.errors import DatasetError

WANTED = {"airplane_001.jpg": ("a plane stands", "one plane"), "beach_7.jpg": ("sand and waves",)}

CSV = "filename,caption\nairplane_001.jpg,a plane stands\nbeach_7.jpg,sand and waves\nairplane_001.jpg,one plane\n"
WIDE = (
    "\ufeffimage,label,caption_1,caption_2\n"
    "airplane_001.jpg,0,a plane stands,one plane\n"
    "beach_7.jpg,1,sand  and waves,\n"
)
LINES = (
    '{"file_name": "airplane_001.jpg", "text": ["a plane stands", "one plane"]}\n\n'
    '{"file_name": "beach_7.jpg", "text": "sand and waves"}'
)
PLAIN = {"airplane_001.jpg": ["a plane stands", "one plane"], "beach_7.jpg": "sand and waves"}
RSICD = {
    "dataset": "rsicd",
    "images": [
        {
            "filename": "airplane_001.jpg",
            "imgid": 0,
            "sentences": [
                {"tokens": ["a", "plane", "stands"], "raw": "a plane stands", "imgid": 0, "sentid": 0},
                {"tokens": ["one", "plane"], "raw": "one plane", "imgid": 0, "sentid": 1},
                {"tokens": ["one", "plane"], "raw": "one plane", "imgid": 0, "sentid": 2},
            ],
            "split": "train",
            "sentids": [0, 1, 2],
        },
        {"filename": "beach_7.jpg", "imgid": 1, "sentences": [{"raw": "sand and waves", "sentid": 3}], "split": "test"},
    ],
}
NWPU = {
    "airplane": [
        {
            "filename": "airplane_001.jpg",
            "imgid": 30800,
            "split": "train",
            "raw": "a plane stands",
            "sentids": 154000,
            "raw_1": "one plane",
            "sentids_1": 154001,
        }
    ],
    "beach": [{"filename": "beach_7.jpg", "imgid": 1, "split": "val", "raw": "sand and waves", "sentids": 9}],
}


def write(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("long.csv", CSV),
        ("wide.csv", WIDE),
        ("lines.jsonl", LINES),
        ("plain.json", PLAIN),
        ("list.json", [{"filename": k, "captions": v} for k, v in PLAIN.items()]),
        ("dataset_rsicd.json", RSICD),
    ],
)
def test_each_format_is_read(tmp_path, name, content):
    assert read_captions(write(tmp_path, name, content)) == WANTED


def test_nwpu_captions_are_read_with_their_classes(tmp_path):
    found = read_captions(write(tmp_path, "dataset_nwpu.json", NWPU))
    assert found == {f"{name.split('_')[0]}/{name}": texts for name, texts in WANTED.items()}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions.txt", "a: b", "no .csv, .jsonl or .json"),
        ("captions.csv", "filename,label\na.tif,1\n", "entry 1,.*no text among filename, label"),
        ("captions.csv", "caption\na river\n", "entry 1,.*no name among caption"),
        ("captions.csv", "filename,caption\n", "holds no captions"),
        ("captions.jsonl", '{"file": "a", "text": "b"}\n{"file": ', "entry 2,.*cannot be read"),
        ("captions.json", "[1, 2]", "cannot be read"),
        ("captions.json", {"images": [{"filename": "a.tif"}]}, "no text among filename"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, said):
    with pytest.raises(DatasetError, match=f"captions file .*{name}.*{said}"):
        read_captions(write(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none.csv does not exist; correct option path"):
        read_captions(tmp_path / "none.csv")


IDS = {
    "ucmerced": ["agricultural/agricultural00.tif", "airplane/airplane00.tif"],
    "aid": ["Airport/airport_1.jpg", "BareLand/bareland_1.jpg"],
    "resisc45": ["airplane/airplane_001.jpg", "airport/airport_001.jpg"],
    "eurosat": ["AnnualCrop/AnnualCrop_1.tif", "Forest/Forest_1.tif"],
    "synthetic": ["forest_0000", "beach_0000"],
    "folder": ["forest/1.png", "river/2.v2.png"],
}


@pytest.mark.parametrize("source", IDS)
def test_names_meet_the_chips_of_every_source(source):
    ids = IDS[source]
    stems = [i.split("/")[-1].rsplit(".", 1)[0] if "." in i else i for i in ids]
    for names in (ids, stems, [f"{stem}.JPG" for stem in stems], [i.replace("/", "\\").upper() for i in ids]):
        matched = match_names(names, ids)
        assert matched.chips == tuple(names) and matched.unused == ()


def test_names_shared_by_classes_need_their_folder():
    ids = ["forest/1.tif", "river/1.tif", "river/2.tif"]
    assert match_names(["river/1.jpg", "2.jpg", "3.jpg"], ids) == match_names(["river/1.jpg", "2.jpg", "3.jpg"], ids)
    matched = match_names(["river/1.jpg", "2.jpg", "3.jpg"], ids)
    assert matched.chips == (None, "river/1.jpg", "2.jpg") and matched.unused == ("3.jpg",)
    with pytest.raises(DatasetError, match=r"1 name.*fit several chips: 1.jpg; write the class folder"):
        match_names(["1.jpg", "2.jpg"], ids)


def test_numbers_count_the_chips():
    assert match_numbers(["2.tif", "1.tif", "3.tif"], 3).chips == ("1.tif", "2.tif", "3.tif")
    with pytest.raises(DatasetError, match="numbered 1 to 2100, but the dataset has 500 chips"):
        match_numbers(["1.tif", "2100.tif"], 500)
    with pytest.raises(DatasetError, match="'river_1.tif' of captions is no running number"):
        match_numbers(["river_1.tif"], 1)


@dataclass
class Named(SceneSource):
    """Black chips with names."""

    chip_ids: list[str]
    labels: np.ndarray

    name, gsd, licence, citation = "named", 1.0, "CC0-1.0", "none"
    classes = (ClassInfo("forest", "forest"), ClassInfo("river", "river"))
    bands = get_bands("rgb")

    def read(self, index):
        return np.full((3, 8, 8), index, np.uint8)


@pytest.fixture
def scenes():
    """Twelve forests and twelve rivers: even ones to train on, odd ones to validate and test."""
    ids = [f"{kind}/{kind}_{number:02d}.tif" for kind in ("forest", "river") for number in range(12)]
    source = Named(ids, np.repeat([0, 1], 12))
    train, val, test = (SceneView(source, np.arange(start, 24, step)) for start, step in ((0, 2), (1, 4), (3, 4)))
    return SceneData(source, train, val, test)


def table(chip_ids):
    return {chip_id.split("/")[1]: [f"a view of {chip_id[:-4]}", "another view"] for chip_id in chip_ids}


def test_captions_follow_the_chips_of_each_view(tmp_path, scenes, recwarn):
    captioner = create_captioner("file", path=str(write(tmp_path, "c.json", table(reversed(scenes.source.chip_ids)))))
    for split, view in (("train", scenes.train), ("val", scenes.val)):
        captions = captioner.caption(scenes, split)
        assert captions.texts == tuple((f"a view of {chip[:-4]}", "another view") for chip in view.chip_ids)
    assert captions.figures["sentences"] == 2 * len(scenes.val) and captioner.needs_names
    assert not recwarn


def test_positions_hold_for_the_prepared_dataset(tmp_path, scenes):
    captioner = create_captioner("file", path=str(write(tmp_path, "c.json", table(scenes.source.chip_ids))))
    captions = captioner.caption(scenes)
    prepare(scenes, tmp_path / "chips")
    prepared = load_prepared(tmp_path / "chips")
    for position in range(len(captions)):
        pixel = int(prepared.train[position]["image"][0, 0, 0])
        assert captions[position] == f"a view of {scenes.source.chip_ids[pixel][:-4]}"
    with pytest.raises(DatasetError, match="prepared dataset keeps no names"):
        captioner.caption(prepared)


def test_chips_without_captions_are_listed(tmp_path, scenes):
    path = write(tmp_path, "c.json", table(scenes.source.chip_ids[-1:]))
    with pytest.raises(DatasetError, match=r"nothing on 12 of the 12 train chips: forest/forest_00.tif, .* and 2 more"):
        create_captioner("file", path=str(path)).caption(scenes)
    path = write(tmp_path, "c.json", table(scenes.source.chip_ids[2:]))
    captions = create_captioner("file", path=str(path), missing="template").caption(scenes)
    assert captions.texts[0] == ("A satellite image of forest",) and captions.texts[1][1] == "another view"
    assert captions.figures["fallbacks"] == 1


def test_more_captions_than_chips_are_reported(tmp_path, scenes):
    names = [*scenes.source.chip_ids, *(f"x/lake_{number}.tif" for number in range(12))]
    captioner = create_captioner("file", path=str(write(tmp_path, "c.json", table(names))))
    with pytest.warns(UnusedCaptionsWarning, match=r"36 images; 12 of them are no chips.*lake_0.tif, .* and 2 more"):
        captions = captioner.caption(scenes)
    assert captions.figures["unused"] == 12


def test_names_of_another_dataset_are_shown_beside_ours(tmp_path, scenes):
    path = write(tmp_path, "c.json", {"airport_1.jpg": "an airport"})
    with pytest.raises(DatasetError, match=r"\(airport_1.jpg\).*'named' \(forest/forest_00.tif.*correct the names"):
        create_captioner("file", path=str(path)).caption(scenes)


def test_running_numbers_are_matched_when_asked_for(tmp_path, scenes):
    numbered = {f"{n + 1}.tif": f"a view of {chip[:-4]}" for n, chip in enumerate(scenes.source.chip_ids)}
    path = str(write(tmp_path, "c.json", numbered))
    with pytest.raises(DatasetError, match="set option match to 'number'"):
        create_captioner("file", path=path).caption(scenes)
    captions = create_captioner("file", path=path, match="number").caption(scenes)
    assert list(captions) == [f"a view of {chip[:-4]}" for chip in scenes.train.chip_ids]


def test_empty_captions_are_listed(tmp_path, scenes):
    content = table(scenes.source.chip_ids) | {"river_03.tif": ["  ", ""], "river_04.tif": ["", "a river"]}
    with pytest.raises(DatasetError, match=r"1 image\(s\) without words: river_03.tif; write a caption"):
        create_captioner("file", path=str(write(tmp_path, "c.json", content))).caption(scenes)


def test_tables_from_files_name_no_chip(tmp_path, scenes):
    content = dict.fromkeys(table(scenes.source.chip_ids), "a view")
    captions = create_captioner("file", path=str(write(tmp_path, "c.json", content))).caption(scenes)
    text = captions.save(tmp_path / "captions.jsonl").read_text("utf-8")
    assert "forest_0" not in text and captions.model.startswith("sha256:")


def test_a_changed_file_has_another_digest(tmp_path):
    captioner = create_captioner("file", path=str(tmp_path / "c.json"))
    assert captioner.input_digest() == ""
    digests = []
    for text in ("a view", "another view"):
        write(tmp_path, "c.json", {"1.tif": text})
        digests.append(captioner.input_digest())
    assert digests[0] != digests[1] and create_captioner("template").input_digest() == ""
