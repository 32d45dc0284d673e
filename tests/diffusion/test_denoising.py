"""Training on latents: two losses, a moving average, a kill that leaves no trace; the teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from rsdistill.captions import class_prompts
from rsdistill.diffusion.denoising import DenoisingModule, DenoisingOptions, train_denoiser
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.teacher import ConsistencyOptions, LatentTeacher, TeacherOptions, judge, train_teacher
from rsdistill.errors import ArtifactError, ModelError

OPTIONS = DenoisingOptions(steps=5, batch=4)


@pytest.fixture(scope="module")
def prompts(tiny_data):
    return class_prompts(tiny_data.classes)


@pytest.fixture
def build(tiny_codec, prompts):
    return lambda prediction="v_prediction": DiffusionModel.from_scratch("tiny", tiny_codec, prompts, 16, prediction, 0)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return LatentTeacher(4, 3, 16, 1).eval().requires_grad_(False)


def module_of(model, prompts, options, teacher=None):
    module = DenoisingModule(model, model.tokenize([*prompts, ""]), options, teacher, seed=0)
    module.log = lambda *_, **__: None
    return module


@pytest.mark.parametrize("target", ["label", "teacher"])
@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_the_consistency_loss_trains_the_unet_and_not_the_teacher(
    build, prompts, tiny_latents, teacher, target, prediction
):
    batch = tiny_latents.read(tiny_latents.positions("train")[::6])

    def gradient(weight):
        options = replace(OPTIONS, consistency=ConsistencyOptions(weight, target, min_alpha_bar=0.0))
        module = module_of(build(prediction), prompts, options, teacher)
        module.training_step(batch, 0).backward()
        return torch.cat([p.grad.flatten() for p in module.trained["unet"].parameters()])

    without, with_loss = gradient(0.0), gradient(1.0)
    assert torch.isfinite(with_loss).all() and not torch.allclose(without, with_loss)
    assert all(p.grad is None for p in teacher.parameters())


def test_the_consistency_loss_is_off_at_high_noise(teacher):
    estimate, labels = torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 2, 0])
    alpha_bar = torch.tensor([0.9, 0.4, 0.6, 0.1])
    parts = torch.nn.functional.cross_entropy(teacher(estimate), labels, reduction="none")
    wanted = (parts[0] * 0.9 + parts[2] * 0.6) / 4
    judged = judge(teacher, estimate, estimate, labels, alpha_bar, ConsistencyOptions(1.0))
    torch.testing.assert_close(judged.loss, wanted)
    right = (teacher(estimate).argmax(1) == labels)[[0, 2]]
    assert judged.seen == 2 and judged.right == right.sum()
    shut = judge(teacher, estimate, estimate, labels, 0.1 * alpha_bar, ConsistencyOptions(1.0))
    assert shut.loss == 0 and shut.seen == 0


def test_a_clean_estimate_agrees_with_the_teacher(teacher):
    options = ConsistencyOptions(1.0, "teacher")
    clean, labels, alpha_bar = torch.randn(2, 4, 8, 8), torch.tensor([0, 1]), torch.ones(2)
    assert abs(float(judge(teacher, clean, clean, labels, alpha_bar, options).loss)) < 1e-6
    assert float(judge(teacher, -3 * clean, clean, labels, alpha_bar, options).loss) > 1e-4


def test_the_consistency_loss_needs_a_teacher(build, prompts, tiny_latents, quiet):
    options = replace(OPTIONS, consistency=ConsistencyOptions(0.1))
    with pytest.raises(ModelError, match="needs a teacher"):
        train_denoiser(build(), tiny_latents, prompts, options, trainer=quiet)


def test_text_dropout_empties_prompts(build, prompts, tiny_latents):
    module, batch = module_of(build(), prompts, OPTIONS), tiny_latents.read(tiny_latents.positions("train")[[0, 9]])
    empty = module.embed_rows(module.text_rows(batch, torch.tensor([True, False]), torch.Generator()))
    wanted = module.trained["text_encoder"](module.tokens).last_hidden_state
    assert torch.equal(empty[0], wanted[-1]) and torch.equal(empty[1], wanted[batch.label[1]])


def test_the_average_follows_the_weights(build, prompts):
    module = module_of(build(), prompts, replace(OPTIONS, ema_decay=0.9))
    assert isinstance(module.average, AveragedModel)
    ones = torch.nn.ParameterList(torch.ones_like(parameter) for parameter in module.learned)

    def moved(count):
        """What an average of zeros holds after so many steps and one more, whose weights are ones."""
        module.average.n_averaged.fill_(count)
        for held in module.average.module:
            held.zero_()
        module.average.update_parameters(ones)
        return float(module.average.module[0].mean())

    assert [moved(count) for count in (1, 10, 10_000)] == pytest.approx([1 - 2 / 11, 1 - 11 / 20, 0.1], abs=1e-6)
    assert module_of(build(), prompts, replace(OPTIONS, ema_decay=0.0)).average is None


def weights(model):
    return {**model.unet.state_dict(), **model.text_encoder.state_dict()}


def test_a_killed_training_ends_like_an_undisturbed_one(build, prompts, tiny_latents, quiet, tmp_path, monkeypatch):
    every_step = replace(quiet, checkpoint_seconds=0.0)

    def train(folder=None):
        return weights(train_denoiser(build(), tiny_latents, prompts, OPTIONS, folder=folder, trainer=every_step))

    whole = train()
    step = DenoisingModule.training_step

    def dies(self, batch, index):
        if self.global_step == 3:
            raise RuntimeError("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(DenoisingModule, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train(tmp_path)
    resumed = train(tmp_path)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_lowers_the_loss_and_freezes_the_model(build, prompts, tiny_latents, quiet):
    batch = tiny_latents.read(tiny_latents.positions("train"))
    options = DenoisingOptions(steps=25, batch=16, ema_decay=0.0, prompt_dropout=0.0)

    def loss(model):
        with torch.no_grad():
            return float(module_of(model, prompts, options).training_step(batch, 0))

    before = loss(build())
    model = train_denoiser(build(), tiny_latents, prompts, options, trainer=quiet)
    assert not any(p.requires_grad for p in [*model.unet.parameters(), *model.text_encoder.parameters()])
    assert loss(model) < 0.9 * before


def test_the_teacher_learns_and_comes_back_equal(tiny_latents, quiet, tmp_path):
    options = TeacherOptions(width=16, blocks=1, steps=120, batch=32, lr=5e-3)
    teacher, figures = train_teacher(tiny_latents, 3, options, trainer=quiet)
    assert figures["train_oa"] > 0.6
    assert set(figures) == {"train_oa", "val_oa", "val_oa_noise_0.25", "val_oa_noise_0.50"}
    assert all(0.0 <= value <= 1.0 for value in figures.values())
    teacher.save(tmp_path)
    loaded = LatentTeacher.load(tmp_path)
    latents = tiny_latents.read(tiny_latents.positions("val")).mean
    assert torch.equal(loaded(latents), teacher(latents)) and not any(p.requires_grad for p in loaded.parameters())


def test_the_teacher_follows_its_seed(tiny_latents, quiet):
    def logits(seed):
        options = TeacherOptions(width=8, blocks=1, steps=2, batch=8)
        return train_teacher(tiny_latents, 3, options, seed, trainer=quiet)[0](torch.ones(1, 4, 8, 8))

    assert torch.equal(logits(0), logits(0)) and not torch.equal(logits(0), logits(1))


@pytest.mark.parametrize("name", ["teacher.json", "teacher.safetensors"])
def test_a_damaged_teacher_is_refused(teacher, tmp_path, name):
    with pytest.raises(ArtifactError, match="cannot be read"):
        LatentTeacher.load(tmp_path)
    teacher.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:12])
    with pytest.raises(ArtifactError, match="cannot be read"):
        LatentTeacher.load(tmp_path)
