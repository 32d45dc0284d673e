"""Vision-language captioner on real architectures: batches, resume, cache, sharing out, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_vlm

from rsdistill.captions import Captions, create_captioner
from rsdistill.captions.vlm import PictureMaker, is_english
from rsdistill.captions.vlm_model import Question, VisionLanguageModel, resolve_precision
from rsdistill.datasets import SceneData, SceneView, load_dataset
from rsdistill.errors import BandError, ModelError, OptionError

PROGRAM = Path(__file__).parents[1] / "helpers" / "caption_program.py"
ROOT = PROGRAM.parents[2]
KINDS = {
    "llava": tiny_vlm.save_llava,
    "llava-chat": lambda folder: tiny_vlm.save_llava(folder, chat=True),
    "blip2": tiny_vlm.save_blip2,
    "qwen2-vl": tiny_vlm.save_qwen2_vl,
}
LENGTH = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of each architecture."""
    return {kind: str(save(tmp_path_factory.mktemp(kind))) for kind, save in KINDS.items()}


@pytest.fixture(scope="module")
def llava(models):
    return models["llava"]


def vlm(model, **options):
    return create_captioner("vlm", model=model, **{"max_new_tokens": LENGTH, "batch": 4, **options})


@pytest.fixture
def asked(monkeypatch):
    """Sizes of the batches that models were asked, in order."""
    sizes, answer = [], VisionLanguageModel.answer_at_once

    def counted(self, questions, length):
        sizes.append(len(questions))
        return answer(self, questions, length)

    monkeypatch.setattr(VisionLanguageModel, "answer_at_once", counted)
    return sizes


def saying(monkeypatch, texts):
    """Make every model say these texts, in turn."""
    left = iter(texts)
    monkeypatch.setattr(VisionLanguageModel, "answer_at_once", lambda _, questions, __: [next(left) for _ in questions])


@pytest.mark.parametrize("kind", KINDS)
def test_architectures_describe_each_chip_whatever_the_batch(models, tiny_data, quiet, kind):
    one = vlm(models[kind], batch=1).caption(tiny_data, trainer=quiet)
    batched = vlm(models[kind], batch=8).caption(tiny_data, trainer=quiet)
    assert one == batched and len(one) == len(tiny_data.train)
    assert one.model.startswith("sha256:") and one.captioner == "vlm"
    # Pictures count: chips of one class get different words. No answer repeats the question.
    forest = {text for text, label in zip(one, tiny_data.train.labels, strict=True) if label == 0}
    assert len(forest) > 1
    assert all(len(text.split()) <= LENGTH for text in one)


def test_the_validation_view_is_described_too_and_the_test_view_never(llava, tiny_data, quiet):
    assert len(vlm(llava).caption(tiny_data, "val", trainer=quiet)) == len(tiny_data.val)
    with pytest.raises(OptionError, match="split 'test'.*train or val"):
        vlm(llava).caption(tiny_data, "test", trainer=quiet)


def test_chips_are_asked_about_in_batches(llava, tiny_data, quiet, asked, tmp_path):
    vlm(llava, batch=10).caption(tiny_data, "train", tmp_path, quiet)
    assert asked == [10, 10, 7]


def test_equal_chips_are_described_once(llava, tiny_data, quiet, asked):
    first = np.repeat(tiny_data.train.indices[:3], 2)
    data = SceneData(tiny_data.source, SceneView(tiny_data.source, first), tiny_data.val, tiny_data.test)
    captions = vlm(llava).caption(data, trainer=quiet)
    assert sum(asked) == 3 and captions.figures["described"] == 3
    assert captions.texts[::2] == captions.texts[1::2]


def test_answers_are_kept_by_picture_question_and_model(llava, models, tiny_data, quiet, asked, tmp_path):
    kept = str(tmp_path / "kept")
    first = vlm(llava, cache=kept).caption(tiny_data, "train", tmp_path / "one", quiet)
    assert sum(asked) == 27 and not (tmp_path / "one").exists()
    asked.clear()
    assert vlm(llava, cache=kept).caption(tiny_data, "train", tmp_path / "two", quiet) == first
    assert not asked
    vlm(llava, cache=kept, prompt="this image shows").caption(tiny_data, trainer=quiet)
    vlm(models["llava-chat"], cache=kept).caption(tiny_data, trainer=quiet)
    vlm(llava, cache=kept, max_new_tokens=3).caption(tiny_data, trainer=quiet)
    assert sum(asked) == 3 * 27


def test_the_cache_names_no_chip(llava, tiny_data, quiet, tmp_path):
    captions = vlm(llava).caption(tiny_data, "train", tmp_path / "work", quiet)
    captions.save(tmp_path / "captions.jsonl")
    written = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert "described" in written and not any(chip in written for chip in tiny_data.source.chip_ids)


def test_a_torn_line_is_asked_again(llava, tiny_data, quiet, asked, tmp_path):
    whole = vlm(llava).caption(tiny_data, "train", tmp_path, quiet)
    (file,) = tmp_path.glob("*.answers.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:8]) + lines[8][:-20])
    asked.clear()
    assert vlm(llava).caption(tiny_data, "train", tmp_path, quiet) == whole
    assert sum(asked) == 27 - 8


def run(runs, **options):
    command = [sys.executable, str(PROGRAM), json.dumps({"runs": {str(k): v for k, v in runs.items()}, **options})]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process):
    try:
        output, _ = process.communicate(timeout=800)
    finally:
        process.kill()
    assert process.returncode == 0, output


@pytest.mark.slow
def test_killed_captioning_goes_on_where_it_was(llava, tiny_data, quiet, tmp_path):
    options = {"model": llava, "max_new_tokens": LENGTH, "batch": 4}
    out = tmp_path / "captions.jsonl"
    work = Path(f"{out}.work")
    killed = run({out: options}, stall_after=3)
    while killed.poll() is None and sum(p.read_text().count("\n") for p in work.glob("*.jsonl")) < 3 * 4:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    finished(run({out: options}))
    assert json.loads(Path(f"{out}.asked").read_text()) == [4, 4, 4, 3]
    assert Captions.load(out) == vlm(llava).caption(tiny_data, trainer=quiet)


@pytest.mark.slow
def test_two_processes_write_what_one_would(models, tiny_data, quiet, tmp_path):
    """Seven batches, an odd number, for one model; then a single batch, so that one process has nothing to do."""
    runs = {
        tmp_path / "many.jsonl": {"model": models["llava"], "max_new_tokens": LENGTH, "batch": 4},
        tmp_path / "single.jsonl": {"model": models["qwen2-vl"], "max_new_tokens": LENGTH, "batch": 64},
    }
    finished(run(runs, trainer={"devices": 2, "strategy": "ddp"}))
    for out, options in runs.items():
        assert Captions.load(out) == create_captioner("vlm", **options).caption(tiny_data, trainer=quiet)
    shares = [p.read_text().splitlines() for p in (tmp_path / "many.jsonl.work").glob("*.answers.jsonl")]
    assert sorted(map(len, shares)) == [12, 15] and not set(shares[0]) & set(shares[1])


def test_batches_are_halved_when_memory_runs_out(llava, tiny_data, quiet, monkeypatch, asked):
    whole = vlm(llava, batch=8).caption(tiny_data, trainer=quiet)
    asked.clear()
    answer = VisionLanguageModel.answer_at_once

    def narrow(self, questions, length):
        if len(questions) > 2:
            asked.append(-len(questions))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return answer(self, questions, length)

    monkeypatch.setattr(VisionLanguageModel, "answer_at_once", narrow)
    assert vlm(llava, batch=8).caption(tiny_data, trainer=quiet) == whole
    assert asked[:4] == [-8, -4, 2, 2] and min(asked[2:]) > 0 and sum(asked[2:]) == 27


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_a_single_chip_that_does_not_fit_is_a_clear_error(llava, tiny_data, quiet, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(VisionLanguageModel, "answer_at_once", full)
    with pytest.raises(ModelError, match="out of memory on a single chip; choose a smaller model.*bfloat16"):
        vlm(llava).caption(tiny_data, trainer=quiet)


def test_what_a_model_cannot_take_is_told(llava, tiny_data, quiet, monkeypatch):
    def broken(*_):
        raise ValueError("Image features and image tokens do not match\nand more")

    monkeypatch.setattr(VisionLanguageModel, "answer_at_once", broken)
    with pytest.raises(ModelError, match="cannot describe a chip: Image features and image tokens do not match$"):
        vlm(llava).caption(tiny_data, trainer=quiet)


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("A river winds through dark green forest.", True),
        ("green fields", True),
        ("Rows of 24 panels, café near the road", True),
        ("", False),
        ("  ... 123 !", False),
        ("森林和河流的卫星图像", False),
        ("Спутниковый снимок леса", False),
        ("Une image satellite montre une rivière entre deux forêts sombres", False),
        ("ein Fluss zwischen dunklen Wäldern und hellen Feldern am Rand", False),
    ],
)
def test_what_passes_for_english(text, english):
    assert is_english(text) is english


def test_bad_answers_fall_back_to_the_template_and_are_counted(llava, tiny_data, quiet, monkeypatch):
    saying(monkeypatch, ["", "森林", *["green  fields\nby a river"] * 25])
    captions = vlm(llava, template="An aerial view of {name}").caption(tiny_data, trainer=quiet)
    assert captions.figures["fallbacks"] == 2
    assert sorted(captions)[:2] == ["An aerial view of forest"] * 2 and captions[26] == "green fields by a river"


def test_too_many_bad_answers_are_an_error(llava, tiny_data, quiet, monkeypatch):
    saying(monkeypatch, ["森林"] * 27)
    with pytest.raises(ModelError, match="no English caption for 27 of 27 chips.*'森林'.*max_fallback 0.1"):
        vlm(llava).caption(tiny_data, trainer=quiet)


def test_a_model_that_reads_no_pictures_is_refused(tmp_path, tiny_data, quiet):
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="of type 'llama', which does not put pictures into words; choose.*LLaVA"):
        vlm(str(tmp_path)).caption(tiny_data, trainer=quiet)


def test_a_model_out_of_reach_is_named_with_the_way_out(tiny_data, quiet):
    with pytest.raises(ModelError, match="'acme/seer-7b' is no folder here.*hf download acme/seer-7b.*option model"):
        vlm("acme/seer-7b").caption(tiny_data, trainer=quiet)


def test_folders_without_a_model_or_its_parts_are_named(tmp_path, llava, tiny_data, quiet):
    with pytest.raises(ModelError, match=f"folder {tmp_path} holds no vision-language model"):
        vlm(str(tmp_path)).caption(tiny_data, trainer=quiet)
    for part in Path(llava).iterdir():
        if part.suffix != ".safetensors":
            (tmp_path / part.name).write_bytes(part.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="weights as safetensors"):
        vlm(str(tmp_path)).caption(tiny_data, trainer=quiet)


def test_a_prompt_with_other_braces_is_refused(llava, tiny_data, quiet):
    with pytest.raises(OptionError, match="prompt.*only {name} may stand in braces"):
        vlm(llava, prompt="Describe {place}").caption(tiny_data, trainer=quiet)


def test_half_precision_where_it_is_asked_for(llava, tiny_data, quiet):
    assert len(vlm(llava, precision="bfloat16").caption(tiny_data, "val", trainer=quiet)) == len(tiny_data.val)
    assert resolve_precision("auto", torch.device("cpu")) is torch.float32
    assert resolve_precision("auto", torch.device("mps")) is torch.bfloat16
    assert resolve_precision("float16", torch.device("cpu")) is torch.float16


def test_false_colour_and_facts_go_with_the_question(llava, tiny_data, quiet, monkeypatch):
    questions = []

    def listen(_, asked, __):
        questions.extend(asked)
        return ["green fields"] * len(asked)

    monkeypatch.setattr(VisionLanguageModel, "answer_at_once", listen)
    vlm(llava, false_colour=True, facts=True, prompt="What of {name}?").caption(tiny_data, "val", trainer=quiet)
    assert all(len(question.pictures) == 2 for question in questions)
    assert not np.array_equal(*questions[0].pictures)
    assert questions[0].text.startswith(f"Measured: one pixel is {tiny_data.gsd:g} m wide, mean NDVI 0.")
    assert "near infrared" in questions[0].text and questions[0].text.endswith("What of forest?")


@pytest.mark.parametrize("kind", ["llava", "llava-chat", "qwen2-vl"])
def test_two_pictures_change_what_is_said(models, tiny_data, quiet, kind):
    plain, false = (vlm(models[kind], false_colour=f).caption(tiny_data, "val", trainer=quiet) for f in (False, True))
    assert len(plain) == len(false) and plain != false


def test_models_of_one_picture_say_so(models, tiny_data, quiet):
    with pytest.raises(ModelError, match="one picture at a time; leave out false_colour"):
        vlm(models["blip2"], false_colour=True).caption(tiny_data, trainer=quiet)


def test_false_colour_needs_near_infrared(llava, quiet):
    data = load_dataset("synthetic", bands="rgb", size=16, chips_per_class=6, classes=["forest", "beach"])
    with pytest.raises(BandError, match="no false-colour picture.*leave out false_colour"):
        vlm(llava, false_colour=True).caption(data, trainer=quiet)


def test_facts_are_measured(tiny_data):
    maker = PictureMaker(tiny_data, facts=True)
    chip = np.zeros((4, 8, 8), np.uint16)
    chip[:, :, :6] = np.array([300, 500, 1000, 3000])[:, None, None]
    chip[:, :, 6:] = np.array([900, 800, 400, 400])[:, None, None]
    # NDVI 0.5 on three quarters and 0 on the rest; water, with NDWI 1/3, on the rest.
    assert (
        maker.show(chip).facts == f"Measured: one pixel is {tiny_data.gsd:g} m wide, mean NDVI 0.38, water covers 25%."
    )
    assert PictureMaker(tiny_data).show(chip).facts == ""


@pytest.mark.parametrize("kind", ["llava-chat", "qwen2-vl"])
def test_the_model_sums_up_texts_without_pictures(models, quiet, kind):
    write = vlm(models[kind]).writer(quiet)
    said = write("this image shows a river near fields")
    assert said and said == write("this image shows a river near fields")


def test_questions_of_one_batch_do_not_touch_each_other(models):
    model = VisionLanguageModel(models["llava"])
    model.load(torch.float32)
    random = np.random.default_rng(0)
    questions = [
        Question((random.integers(0, 255, (16, 16, 3), dtype=np.uint8),), " ".join(["river"] * n)) for n in (1, 9, 3)
    ]
    assert model.answer(questions, LENGTH) == [model.answer([question], LENGTH)[0] for question in questions]
