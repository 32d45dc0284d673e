"""The report: one file that needs nothing beside it, says what it must, and hides what it should."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers.report_samples import REAL_METHOD, TrialSource, make_data, make_evaluation, make_tiles

from rsdistill.datasets.base import SceneView
from rsdistill.errors import OptionError, StorageError
from rsdistill.report import write_report
from rsdistill.report.html import duration, figure_text, percent, storage, verdict, yaml_text
from rsdistill.training.trainer import TrainerOptions
from rsdistill.utils.provenance import REAL

STAGES = [
    {"name": "codec", "seconds": 83.0, "figures": {"l1": 0.03125, "parameters": 1234567}},
    {"name": "teacher", "seconds": 4.25, "figures": {"val_accuracy": 0.9312}},
]


class Page(HTMLParser):
    """What a browser would load, and what a reader would see."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._hidden = [], [], False
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == "style"

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)

    @property
    def images(self):
        return [attrs for tag, attrs in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture
def write(data, tmp_path):
    def make(name="report.html", **changes):
        tiles = changes.pop("tiles", None) or make_tiles(data)
        values = {
            "title": "Trial",
            "config": {"distill": {"ipc": 2}},
            "evaluation": make_evaluation(),
            "stages": STAGES,
        }
        path = write_report(tmp_path / name, data=data, tiles=tiles, **(values | changes))
        return Page(path.read_text(encoding="utf-8"))

    return make


def test_page_needs_nothing_beside_it(write):
    page = write()
    loading = {"src", "href", "srcset", "action", "data"}
    addresses = [attrs[name] for _, attrs in page.tags for name in loading & set(attrs)]
    assert addresses and all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}


def test_page_says_what_the_set_is(write, data):
    text = write().text
    assert f"condenses the {len(data.train)} training chips of trial into 6 generated images" in text
    assert "2 per class for 3 classes, by the method dpd" in text
    # 6 images of 4 x 16 x 16 uint16 and an int64 label each; 24 chips of the same size.
    assert "12.3 kB" in text and "49.3 kB" in text


def test_table_shows_every_row_with_its_leakage(write):
    text = write().text
    for cell in ("61.0 ± 2.0", "0.415 ± 0.030", "55 (43 to 67)", "100 (94 to 100)"):
        assert cell in text, cell
    assert text.count("real chips") >= 2
    assert "cannot prove that there is none" in text and "50 %" in text


def test_stages_config_and_provenance_are_there(write):
    text = write(config={"codec": {"name": "kl", "block_channels": (16, 32)}}).text
    for words in ("1 min 23 s", "l1 0.03125", "val accuracy 0.9312", "block_channels: - 16 - 32"):
        assert words in text.replace("\N{NO-BREAK SPACE}", " "), words
    for words in ("CC0-1.0", "Nobody (2026), Trial.", "numpy 2.0", "seed 7"):
        assert words in text.replace("\N{NO-BREAK SPACE}", " "), words


def test_training_is_shown_where_it_was_logged(write):
    bare = write()
    assert "Logged while training" not in bare.text
    page = write(training={"teacher": {}, "train": {"denoising": ([1, 2], [1.0, 0.5])}})
    assert "Logged while training" in page.text and len(page.images) == len(bare.images) + 1
    assert page.images[-1]["alt"].endswith("of stages train.")
    assert "Logged while training" not in write(training={"teacher": {}}).text


def test_seal_is_that_of_the_set(write, data):
    tiles = make_tiles(data)
    assert re.findall(r"\b[0-9a-f]{64}\b", write(tiles=tiles).text) == [tiles.seal()]


def test_every_image_has_words_for_those_who_do_not_see_it(write):
    images = write().images
    assert len(images) == 6  # comparison, natural colour, false colour, spectra, their agreement, NDVI
    assert all(len(attrs["alt"]) > 20 for attrs in images)
    assert len({attrs["alt"] for attrs in images}) == len(images)


def test_infrared_brings_false_colour_and_an_index_and_rgb_does_not(write, tmp_path):
    infrared = write()
    assert "False colour" in infrared.text and "NDVI by class" in infrared.text
    rgb = make_data("rgb")
    plain = Page(
        write_report(
            tmp_path / "rgb.html", title="", config={}, data=rgb, tiles=make_tiles(rgb), evaluation=None, stages=[]
        ).read_text(encoding="utf-8")
    )
    assert [attrs["alt"][:30] for attrs in plain.images] == [
        "Original training chips beside",
        "Mean value by band of original",
    ]
    assert "False colour" not in plain.text and "NDVI" not in plain.text and "Wasserstein" not in plain.text


def test_names_are_escaped(write):
    page = write(title="<script>alert(1)</script>", config={"name": "</pre><img src='http://x'>"})
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(attrs["src"].startswith("data:") for attrs in page.images)
    assert "<script>alert(1)</script>" in page.text


def test_real_chips_are_announced_and_can_be_left_out(write):
    shown, hidden = write(), write(show_real=False)
    assert "This page shows original chips of trial." in shown.text
    assert "shows original chips" not in hidden.text
    sheets = [[attrs["alt"] for attrs in page.images if "a row a class" in attrs["alt"]] for page in (shown, hidden)]
    assert all("Original training chips" in alt for alt in sheets[0])
    assert sheets[1] and all("Original" not in alt for alt in sheets[1])


def test_no_real_pixel_reaches_the_page_when_left_out(data, tmp_path):
    """The pictures do not change when the chips' pixels do: only limits and spectra rest on them."""
    tiles = make_tiles(data)

    def pictures(of):
        common = {"title": "", "config": {}, "tiles": tiles, "evaluation": None, "stages": [], "show_real": False}
        page = Page(write_report(tmp_path / "r.html", data=of, **common).read_text(encoding="utf-8"))
        return [attrs["src"] for attrs in page.images if "a row a class" in attrs["alt"]]

    assert pictures(data) == pictures(shuffled(data))


def shuffled(data):
    """Other chips with the same values: every chip's pixels in reverse order."""
    source = TrialSource(reverse=True)
    views = {name: SceneView(source, getattr(data, name).indices) for name in ("train", "val", "test")}
    return replace(data, source=source, **views)


def test_selected_set_is_hidden_with_the_real_chips(write, data):
    tiles = make_tiles(data, method=REAL_METHOD, digital_source_type=REAL)
    shown, hidden = write(tiles=tiles), write(tiles=tiles, show_real=False)
    assert "selects 6 images made of real pixels" in shown.text
    assert not [attrs for attrs in hidden.images if "a row a class" in attrs["alt"]]
    assert "No picture of the set is shown" in hidden.text


def test_without_evaluation_and_stages(write):
    text = write(evaluation=None, stages=[]).text
    assert "Neither was measured" in text
    assert "Stages" not in text


def test_stage_without_figures_and_set_without_manifest(write, data):
    tiles = replace(make_tiles(data), manifest={})
    text = write(stages=[{"name": "encode", "seconds": 2.0}], tiles=tiles).text
    assert "encode 2.0 s" in text and "by the method unknown" in text


def test_equal_runs_give_equal_files(write, tmp_path):
    write("a.html"), write("b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_failure_leaves_the_old_file_and_nothing_else(write, tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(OptionError, match="columns is 0"):
        write(columns=0)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_paths_that_cannot_be_written(write, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="is a folder"):
        write("folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write("file/report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "none shown"),
        ({"held_out_low": 0.51}, "shown"),
        ({"copy_rate": 0.1}, "copies flagged"),
        ({"synthetic": False, "held_out_low": 0.9}, "by definition"),
        ({"held_out_null": None}, "–"),
    ],
)
def test_verdict(changes, words):
    assert verdict(replace(make_evaluation().rows[0], **changes)) == words


def test_numbers_for_people():
    assert [percent(0.5), percent(0.5, 0.01), percent(None)] == ["50.0", "50.0 ± 1.0", "–"]
    assert [storage(999), storage(1234567), storage(2.5e15)] == ["999 bytes", "1.23 MB", "2.5e+03 TB"]
    times = {4.21: "4.2 s", 59.99: "1 min 00 s", 200: "3 min 20 s", 7500: "2 h 05 min"}
    assert {seconds: duration(seconds) for seconds in times} == times
    assert [figure_text(value) for value in (True, 0.123456, "l2", None)] == ["yes", "0.1235", "l2", "None"]


def test_yaml_of_options(tmp_path):
    text = yaml_text({"root": tmp_path, "trainer": TrainerOptions(devices=2), "sides": (1, 2)})
    assert str(tmp_path) in text and "devices: 2" in text and "python" not in text.replace(str(tmp_path), "")
