"""What is looked at while the denoiser trains: the same each time, and without a trace in the weights."""

from __future__ import annotations

import errno
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rsdistill.captions import class_prompts
from rsdistill.diffusion.denoising import DenoisingModule, DenoisingOptions, train_denoiser
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.monitoring import SampleGrid, Validation, WatchOptions
from rsdistill.diffusion.teacher import ConsistencyOptions, LatentTeacher
from rsdistill.errors import StorageError
from rsdistill.training.callbacks import training_log

WATCHED = DenoisingOptions(steps=5, batch=4, watch=WatchOptions(validation=2, draws=12, samples=3, columns=2))
LEVELS = [f"val_teacher_oa_{low:.2f}_to_{low + 0.25:.2f}" for low in (0.0, 0.25, 0.5, 0.75)]


@pytest.fixture(scope="module")
def prompts(tiny_data):
    return class_prompts(tiny_data.classes)


@pytest.fixture(scope="module")
def build(tiny_codec, prompts):
    return lambda: DiffusionModel.from_scratch("tiny", tiny_codec, prompts, 16, "v_prediction", 0)


@pytest.fixture(scope="module")
def teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LatentTeacher(4, 3, 16, 1).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def train(build, prompts, tiny_latents, teacher, quiet):
    often = replace(quiet, checkpoint_seconds=0.0)

    def run(options, folder=None):
        return train_denoiser(build(), tiny_latents, prompts, options, teacher, folder=folder, trainer=often)

    return run


@pytest.fixture(scope="module")
def watched(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    return train(WATCHED, folder), folder / "log"


@pytest.fixture
def module(build, prompts, teacher):
    model = build()
    return DenoisingModule(model, model.tokenize([*prompts, ""]), WATCHED, teacher, seed=0)


def weights(model):
    return {**model.unet.state_dict(), **model.text_encoder.state_dict()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def validation_of(module, latents):
    """The validation that training would make of a module."""
    options = module.options
    return Validation(module, latents, options.watch.draws, options.batch, options.consistency)


def test_watching_leaves_no_trace_in_the_weights(train, watched, tmp_path):
    unseen = replace(WATCHED, watch=WatchOptions(validation=0))
    assert same(weights(watched[0]), weights(train(unseen, tmp_path)))
    assert not [name for name in training_log(tmp_path / "log") if name.startswith("val")]
    assert not (tmp_path / "log" / "samples").exists()


def test_validation_is_logged_at_its_steps_and_at_the_end(watched):
    log = training_log(watched[1])
    for name in ("val_denoising", "val_denoising_averaged", *LEVELS):
        assert log[name][0] == [2, 4, 5] and all(math.isfinite(value) for value in log[name][1])
    assert all(0.0 <= value <= 1.0 for name in LEVELS for value in log[name][1])
    assert log["denoising"][0] == [1, 2, 3, 4, 5]


def test_pictures_come_at_their_steps_and_show_every_class(watched):
    files = sorted(path.name for path in (watched[1] / "samples").iterdir())
    assert files == ["step_000003.png", "step_000005.png"]
    with Image.open(watched[1] / "samples" / files[-1]) as picture:
        shown = np.asarray(picture.convert("RGB"))
    # Tiles are no plain ground.
    assert min(shown.shape[:2]) > 100 and len(np.unique(shown.reshape(-1, 3), axis=0)) > 50


def test_a_killed_training_leaves_the_same_log_and_pictures(train, watched, tmp_path, monkeypatch):
    step = DenoisingModule.training_step
    for fail_at in (2, 3):
        with monkeypatch.context() as patch:

            def dies(self, batch, index, fail_at=fail_at):
                if self.global_step == fail_at:
                    raise RuntimeError("killed")
                return step(self, batch, index)

            patch.setattr(DenoisingModule, "training_step", dies)
            with pytest.raises(RuntimeError, match="killed"):
                train(WATCHED, tmp_path)
    assert same(weights(train(WATCHED, tmp_path)), weights(watched[0]))
    assert training_log(tmp_path / "log") == training_log(watched[1])
    for path in (watched[1] / "samples").iterdir():
        assert (tmp_path / "log" / "samples" / path.name).read_bytes() == path.read_bytes()


def test_validation_says_the_same_each_time_and_draws_nothing(module, tiny_latents):
    validation = validation_of(module, tiny_latents)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = validation(1)
    assert first == validation(2) == validation_of(module, tiny_latents)(3)
    assert torch.equal(state, torch.get_rng_state())
    assert module.trained.training and all(p.requires_grad for p in module.learned)


def test_validation_is_the_loss_of_the_weights_it_names(module, tiny_latents):
    validation = validation_of(module, tiny_latents)
    before = validation(0)
    assert before["val_denoising"] == before["val_denoising_averaged"]
    held = [parameter.clone() for parameter in module.learned]
    with torch.no_grad():
        for parameter in module.learned:
            parameter.mul_(1.5)
    moved = validation(0)
    assert moved["val_denoising"] != before["val_denoising"]
    assert moved["val_denoising_averaged"] == before["val_denoising_averaged"]
    assert all(torch.equal(p, 1.5 * h) for p, h in zip(module.learned, held, strict=True))
    draw = validation.draw
    with torch.no_grad():
        wanted = float(module.denoise(draw)[0].mean())
    assert moved["val_denoising"] == pytest.approx(wanted, rel=1e-5)
    assert len(draw.label) == 12 and draw.told.all()


def test_validation_spreads_over_latents_and_noise(module, tiny_latents, monkeypatch):
    module.options = replace(WATCHED, watch=WatchOptions(draws=8), consistency=ConsistencyOptions(0.5))
    validation = validation_of(module, tiny_latents)
    draw = validation.draw
    assert draw.timestep.tolist() == [62, 187, 312, 437, 562, 687, 812, 937]
    held = tiny_latents.positions("val")
    assert len(held) == 3 and sorted(set(draw.label.tolist())) == sorted(tiny_latents.label[held].tolist())
    assert validation(0)["val_consistency"] > 0
    module.options = replace(module.options, consistency=ConsistencyOptions())
    validation = validation_of(module, tiny_latents)
    assert "val_consistency" not in validation(0)
    # A teacher that is right where there is more signal than half says so.
    signal = module.alpha_bar[draw.timestep] >= 0.5
    said = torch.where(signal, draw.label, (draw.label + 1) % 3)
    monkeypatch.setattr(LatentTeacher, "forward", lambda *_: torch.nn.functional.one_hot(said, 3).float())
    assert [validation(0).get(name) for name in LEVELS] == [0.0, 0.0, 1.0, 1.0]


def test_a_picture_is_complete_or_not_there(module, tiny_latents, prompts, tmp_path, monkeypatch):
    grid = SampleGrid(module, tiny_latents, prompts, tmp_path, module.options.watch.columns)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match=r"step_000001\.png"):
        patch.setattr("os.replace", full)
        grid(1)
    assert not list((tmp_path / "samples").iterdir())
    assert grid(2) == {}
    assert (tmp_path / "samples" / "step_000002.png").stat().st_size > 1000
