"""Options of the training: each either gives the same weights at another cost, or does what it says."""

from __future__ import annotations

from dataclasses import replace

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from rsdistill.captions import class_prompts
from rsdistill.diffusion.denoising import DenoisingModule, DenoisingOptions, train_denoiser
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.monitoring import WatchOptions
from rsdistill.diffusion.teacher import ConsistencyOptions, LatentTeacher
from rsdistill.errors import OptionError
from rsdistill.training.callbacks import training_log

OPTIONS = DenoisingOptions(steps=4, batch=6, watch=WatchOptions(validation=0), consistency=ConsistencyOptions(0.1))


@pytest.fixture(scope="module")
def teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LatentTeacher(4, 3, 16, 1).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def train(tiny_data, tiny_codec, tiny_latents, teacher, quiet):
    def run(options, folder=None, trainer=quiet, prediction="v_prediction"):
        prompts = class_prompts(tiny_data.classes)
        model = DiffusionModel.from_scratch("tiny", tiny_codec, prompts, 16, prediction, 0)
        return train_denoiser(model, tiny_latents, prompts, options, teacher, folder=folder, trainer=trainer)

    return run


def weights(model):
    return {**model.unet.state_dict(), **model.text_encoder.state_dict()}


def assert_close(one, other, **tolerance):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def plain(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return train(OPTIONS, folder), training_log(folder / "log")


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_trains_like_the_whole(train, plain, tmp_path, parts):
    """Even where the parts differ in size: six latents in four parts."""
    assert_close(train(replace(OPTIONS, accumulate=parts), tmp_path), plain[0], rtol=1e-3, atol=2e-4)
    log = training_log(tmp_path / "log")
    for name in ("denoising", "consistency", "teacher_oa"):
        assert log[name][0] == plain[1][name][0] == [1, 2, 3, 4]
        assert log[name][1] == pytest.approx(plain[1][name][1], rel=1e-3, nan_ok=True)


def test_more_parts_than_latents_are_refused(train):
    with pytest.raises(OptionError, match=r"training\.accumulate 7 is more than the 6 latents"):
        train(replace(OPTIONS, accumulate=7))


def test_activations_computed_anew_give_the_same_weights(train, plain, monkeypatch):
    calls = []
    from diffusers.models.resnet import ResnetBlock2D

    forward = ResnetBlock2D.forward
    monkeypatch.setattr(ResnetBlock2D, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    train(OPTIONS)
    kept, calls[:] = len(calls), []
    model = train(replace(OPTIONS, gradient_checkpointing=True))
    assert_close(model, plain[0], rtol=1e-4, atol=1e-6)
    # Each block of the ways down and up once more.
    assert kept < len(calls) <= 2 * kept
    assert not model.unet.is_gradient_checkpointing


def test_half_precision_is_near_full_and_keeps_full_weights(train, plain, quiet, tmp_path):
    options = replace(OPTIONS, accumulate=2, gradient_checkpointing=True)
    model = train(options, tmp_path, replace(quiet, precision="bf16-mixed"))
    assert all(value.dtype != torch.bfloat16 for value in weights(model).values())
    log = training_log(tmp_path / "log")
    for name in ("denoising", "consistency"):
        assert log[name][1] == pytest.approx(plain[1][name][1], rel=0.03)
        assert log[name][1] != plain[1][name][1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="half precision with a scaled loss needs a GPU")
def test_sixteen_bits_are_near_full(train, plain, quiet, tmp_path):
    train(OPTIONS, tmp_path, replace(quiet, accelerator="gpu", precision="16-mixed"))
    assert training_log(tmp_path / "log")["denoising"][1] == pytest.approx(plain[1]["denoising"][1], rel=0.03)


def test_clipping_sees_gradients_without_the_scale_of_sixteen_bits(train, quiet, monkeypatch):
    """On the CPU, with the plugin and the scaled loss that Lightning takes on a GPU."""
    norms, clip, build = [], torch.nn.utils.clip_grad_norm_, lightning.Trainer
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, most: norms.append(float(clip(p, most))))
    train(OPTIONS)
    full, norms[:] = list(norms), []

    def scaled(**options):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        return build(**{name: value for name, value in options.items() if name != "precision"}, plugins=[plugin])

    monkeypatch.setattr(lightning, "Trainer", scaled)
    train(replace(OPTIONS, accumulate=2))
    assert norms == pytest.approx(full, rel=0.1)
    assert norms != full


def rates(options, tiny_codec):
    model = DiffusionModel.from_scratch("tiny", tiny_codec, ["forest"], 16, "epsilon", 0)
    module = DenoisingModule(model, model.tokenize(["forest", ""]), options, None, 0)
    found = module.configure_optimizers()
    optimiser, schedule, seen = found["optimizer"], found["lr_scheduler"]["scheduler"], []
    for _ in range(options.steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return seen


def test_the_rate_rises_and_then_falls_or_stays(tiny_codec):
    options = DenoisingOptions(steps=40, lr=0.1, warmup_ratio=0.25)
    fallen = rates(options, tiny_codec)
    assert fallen.index(max(fallen)) in (9, 10) and max(fallen) == pytest.approx(0.1, rel=0.01)
    assert fallen[:10] == sorted(fallen[:10]) and fallen[10:] == sorted(fallen[10:], reverse=True)
    assert fallen[-1] < 0.001
    stayed = rates(replace(options, schedule="constant"), tiny_codec)
    assert stayed == pytest.approx([0.1 * min(1.0, (step + 1) / 11) for step in range(40)])
    assert rates(replace(options, schedule="constant", warmup_ratio=0.0), tiny_codec) == [0.1] * 40


def test_clipping_sees_the_gradient_of_the_whole_batch(train, monkeypatch):
    """Once a step, also where the batch comes in parts, and what steps has the norm asked for."""
    seen, clip = [], torch.nn.utils.clip_grad_norm_

    def spy(parameters, most):
        gradient = torch.cat([p.grad.flatten().clone() for p in parameters if p.grad is not None])
        clip(parameters, most)
        left = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        seen.append((gradient, float(left.norm())))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    train(replace(OPTIONS, max_grad_norm=0.01))
    train(replace(OPTIONS, max_grad_norm=0.01, accumulate=4))
    assert len(seen) == 2 * OPTIONS.steps
    assert [norm for _, norm in seen] == pytest.approx([0.01] * len(seen), rel=1e-3)
    whole, parts = seen[0][0], seen[OPTIONS.steps][0]
    assert whole.norm() > 0.02
    assert (whole - parts).norm() < 1e-4 * whole.norm()


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_without_an_average_the_last_weights_are_kept(train, prediction):
    one = train(replace(OPTIONS, ema_decay=0.0, accumulate=2), prediction=prediction)
    other = train(replace(OPTIONS, ema_decay=0.9), prediction=prediction)
    assert not torch.equal(one.unet.conv_in.weight, other.unet.conv_in.weight)
