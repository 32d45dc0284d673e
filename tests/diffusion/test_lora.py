"""LoRA: it alone trains and is kept, stock diffusers loads it, and a kill leaves no trace in it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.pretrained_pipelines import PROMPTS, save_pipeline
from safetensors.torch import load_file, save_file

from rsdistill.codecs import create_codec, encode
from rsdistill.datasets import load_dataset
from rsdistill.diffusion.denoising import DenoisingModule, train_denoiser
from rsdistill.diffusion.guidance import GuidanceOptions
from rsdistill.diffusion.lora import WEIGHTS, LoraOptions, check_peft
from rsdistill.diffusion.model_factory import BASE, ModelPlan
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.distillers import create_distiller
from rsdistill.errors import ModelError, OptionError

KINDS = ("sd15", "sd2", "text2earth")
SAMPLING = SamplingOptions(steps=3, guidance_scale=2.5, guidance=GuidanceOptions(scale=0.0))
# Updates begin at zero: a high rate makes them matter within a few steps.
FEW_LOOKS = {"validation": 4, "draws": 2}
TRAINING = create_distiller(
    "dpd", training={"steps": 4, "batch": 4, "lr": 0.02, "ema_decay": 0.5, "watch": FEW_LOOKS}
).training


class Bench:
    """A pipeline with its latents, and LoRA on it."""

    def __init__(self, kind, folder, data, quiet):
        self.folder, self.data, self.quiet = save_pipeline(kind, folder / kind), data, quiet
        self.codec = create_codec("pretrained", data.bands, source=str(self.folder)).fit(data, trainer=quiet)
        self.latents = encode(self.codec, data, folder / "latents.zarr", views=1, progress=False)
        self.untuned = self.draw(ModelPlan(str(self.folder)).build(self.codec, PROMPTS, 32, 0))

    def plan(self, **options):
        return ModelPlan(str(self.folder), None, LoraOptions(**options))

    def build(self, seed=0, **options):
        return self.plan(**options).build(self.codec, PROMPTS, 32, seed)

    def train(self, model, folder=None, every_step=False):
        trainer = replace(self.quiet, checkpoint_seconds=0.0) if every_step else self.quiet
        return train_denoiser(model, self.latents, PROMPTS, TRAINING, folder=folder, trainer=trainer)

    def draw(self, model):
        return sample(model, PROMPTS[:2], [5, 6], options=SAMPLING, progress=False)


@pytest.fixture(scope="module")
def benches(tmp_path_factory, quiet):
    data = load_dataset("synthetic", size=32, chips_per_class=8, bands="rgb", classes=["forest", "beach", "solar_farm"])
    return {kind: Bench(kind, tmp_path_factory.mktemp(kind), data, quiet) for kind in KINDS}


def lora_of(model):
    parts = {"unet": model.unet, "text_encoder": model.text_encoder}
    return {f"{part}.{n}": p for part, module in parts.items() for n, p in module.named_parameters() if "lora_" in n}


@pytest.mark.parametrize(
    ("kind", "options"),
    [*((kind, {}) for kind in KINDS), ("sd15", {"rank": 2, "alpha": 6, "dropout": 0.3, "text_encoder": True})],
)
def test_lora_trains_is_killed_resumes_and_loads_in_stock_diffusers(benches, kind, options, tmp_path, monkeypatch):
    bench, losses, step = benches[kind], {}, DenoisingModule.training_step

    def watched(self, batch, index):
        if losses.get("kill") == self.global_step:
            raise RuntimeError("killed")
        loss = step(self, batch, index)
        losses.setdefault(self.global_step, []).append(float(loss.detach()))
        return loss

    monkeypatch.setattr(DenoisingModule, "training_step", watched)
    before = bench.build(**options)
    frozen = {name: value.clone() for name, value in before.unet.state_dict().items() if "lora_" not in name}
    whole = bench.train(before)
    losses["kill"] = 2
    with pytest.raises(RuntimeError, match="killed"):
        bench.train(bench.build(**options), tmp_path / "fit", every_step=True)
    losses.pop("kill")
    resumed = bench.train(bench.build(**options), tmp_path / "fit", every_step=True)
    assert sorted(losses) == [0, 1, 2, 3] and all(first == again for first, again in losses.values())
    assert lora_of(whole).keys() == lora_of(resumed).keys()
    assert all(torch.equal(value, lora_of(resumed)[name]) for name, value in lora_of(whole).items())
    assert all(torch.equal(value, frozen[name]) for name, value in whole.unet.state_dict().items() if name in frozen)

    plan = bench.plan(**options)
    plan.save(whole, tmp_path / "lora")
    ours = bench.draw(whole)
    assert torch.equal(ours, bench.draw(plan.load(tmp_path / "lora", bench.codec, 32)))
    assert not torch.allclose(ours, bench.untuned, atol=1e-2)
    stock = StableDiffusionPipeline.from_pretrained(bench.folder, safety_checker=None)
    stock.load_lora_weights(tmp_path / "lora")
    stock.scheduler = whole.scheduler
    if kind != "text2earth":  # A stock pipeline passes no labels: its UNet is called by ours alone.
        torch.testing.assert_close(ours, stock_latents(stock), rtol=1e-4, atol=1e-4)
    else:
        stock.unet.register_to_config(sample_size=8)
        torch.testing.assert_close(ours, bench.draw(replace(whole, unet=stock.unet, text_encoder=stock.text_encoder)))


def stock_latents(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS[:2],
        num_inference_steps=SAMPLING.steps,
        guidance_scale=SAMPLING.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        height=32,
        width=32,
        output_type="latent",
    ).images


def test_lora_begins_as_the_base_and_follows_the_seed(benches):
    bench = benches["sd15"]
    assert torch.equal(bench.draw(bench.build()), bench.untuned)

    def weights(seed):
        return torch.cat([p.flatten() for p in lora_of(bench.build(seed)).values()])

    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))
    assert torch.equal(state, torch.get_rng_state())


def test_only_lora_is_kept_in_average_checkpoint_and_folder(benches, tmp_path):
    bench = benches["sd2"]
    model = bench.build(rank=2)
    module = DenoisingModule(model, model.tokenize([*PROMPTS, ""]), TRAINING, None, 0)
    count = len(lora_of(model))
    assert len(module.learned) == len(list(module.average.module.parameters())) == count
    assert all("lora_" in name for name in module.state_dict() if name.startswith("trained."))
    bench.train(model, tmp_path / "fit")
    state = torch.load(tmp_path / "fit" / "last.ckpt", weights_only=True)
    assert len([name for name in state["state_dict"] if name.startswith("trained.")]) == count
    assert len(state["optimizer_states"][0]["state"]) == count
    bench.plan(rank=2).save(model, tmp_path / "lora")
    assert sorted(path.name for path in (tmp_path / "lora").iterdir()) == [BASE, WEIGHTS]
    base = (bench.folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert (tmp_path / "lora" / WEIGHTS).stat().st_size < 0.05 * base


@pytest.mark.parametrize(("text_encoder", "passes"), [(False, 1), (True, TRAINING.steps)])
def test_prompts_pass_an_encoder_that_does_not_learn_once(benches, text_encoder, passes, monkeypatch):
    bench, seen = benches["sd15"], []
    model = bench.build(text_encoder=text_encoder)
    forward = model.text_encoder.forward
    monkeypatch.setattr(model.text_encoder, "forward", lambda *a, **k: (seen.append(1), forward(*a, **k))[1])
    bench.train(model)
    assert len(seen) == passes


def test_activations_computed_anew_train_the_same(benches):
    bench = benches["sd15"]

    def trained(anew):
        options = replace(TRAINING, steps=2, gradient_checkpointing=anew)
        return train_denoiser(bench.build(text_encoder=True), bench.latents, PROMPTS, options, trainer=bench.quiet)

    kept, anew = (lora_of(trained(each)) for each in (False, True))
    assert all(torch.allclose(value, anew[name], atol=1e-5) for name, value in kept.items())


def test_targets_say_which_layers_learn(benches):
    bench = benches["sd15"]
    names = {
        name.split(".lora_")[0].rsplit("attn", 1)[-1] for name in lora_of(bench.build(targets=("to_q", "to_out.0")))
    }
    assert names == {"1.to_q", "2.to_q", "1.to_out.0", "2.to_out.0"}
    with pytest.raises(OptionError, match=r"option lora.targets: no layer of the UNet ends in 'to_quit'"):
        bench.build(targets=("to_q", "to_quit"))


def test_a_lora_is_refused_without_its_base(benches, tmp_path):
    bench, other = benches["sd15"], benches["sd2"]
    bench.plan().save(bench.build(), tmp_path)
    with pytest.raises(ModelError, match=r"was trained on folder sd15, and preset '.*sd2' holds other weights"):
        other.plan().load(tmp_path, other.codec, 32)
    (tmp_path / BASE).unlink()
    with pytest.raises(ModelError, match="was trained on an unknown base"):
        bench.plan().load(tmp_path, bench.codec, 32)


def test_a_damaged_lora_is_refused(benches, tmp_path):
    bench = benches["sd15"]
    bench.plan().save(bench.build(), tmp_path)
    path = tmp_path / WEIGHTS
    kept = path.read_bytes()
    path.write_bytes(kept[:50])
    with pytest.raises(ModelError, match=r"LoRA in .* cannot be read"):
        bench.plan().load(tmp_path, bench.codec, 32)
    path.write_bytes(kept)
    save_file({name: value[:1] for name, value in load_file(path).items()}, path)
    with pytest.raises(ModelError, match=r"LoRA in .* cannot be read"):
        bench.plan().load(tmp_path, bench.codec, 32)
    path.unlink()
    with pytest.raises(ModelError, match=rf"holds no LoRA \({WEIGHTS} is missing\)"):
        bench.plan().load(tmp_path, bench.codec, 32)


def test_dpd_with_lora_distils_and_its_stages_come_back(benches, quiet, tmp_path):
    bench = benches["text2earth"]
    options = {
        "preset": str(bench.folder),
        "lora": {"rank": 2},
        "unet_class_label": 16,
        "teacher": {"width": 8, "blocks": 1, "steps": 2},
        "training": {"steps": 2, "batch": 4},
        "prototypes": {"kind": "representative"},
        "sampling": {"steps": 2},
        "candidates": 1,
    }
    method = create_distiller("dpd", **options).fit(bench.data, bench.latents, trainer=quiet)
    for step in method.steps():
        step.save(tmp_path / step.name)
    tiles = method.distill(1)
    again = create_distiller("dpd", **options).attach(bench.data, bench.latents, trainer=quiet)
    for step in again.steps():
        step.load(tmp_path / step.name)
    assert (tiles.image == again.distill(1).image).all() and tiles.image.shape == (3, 3, 32, 32)
    told = again.distill(1).manifest
    assert told["base"]["folder"] == told["options"]["preset"] == "text2earth" and len(told["base"]["weights"]) == 64
    assert str(bench.folder.parent) not in json.dumps(told)
    assert method.requirements.size_multiple == 8
    changed = create_distiller("dpd", **options | {"lora": {"rank": 3}})
    same, other = method.steps(), changed.steps()
    assert same[0].options == other[0].options and same[1].options != other[1].options


def test_a_peft_too_old_for_transformers_is_told_before_lora_is_added(benches, monkeypatch):
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "99.0")
    with pytest.raises(ModelError, match=r"asks for peft 99.0 or later, and \d.*; update peft") as caught:
        benches["sd15"].build(text_encoder=True)
    assert "\n" not in str(caught.value)
    # diffusers adds it to the UNet without transformers.
    benches["sd15"].build()
    monkeypatch.delattr("transformers.integrations.peft.MIN_PEFT_VERSION")
    check_peft()
