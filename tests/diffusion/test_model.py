"""The model stays stock: our sampler and our files are those of ``StableDiffusionPipeline``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

from rsdistill.codecs import create_codec
from rsdistill.datasets import load_dataset
from rsdistill.diffusion.guidance import GuidanceOptions
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.diffusion.text import build_text_encoder, build_tokenizer
from rsdistill.errors import ModelError, OptionError, UnknownNameError

PROMPTS = ["A satellite image of forest", "A satellite image of storage tanks"]
UNGUIDED = SamplingOptions(steps=4, guidance_scale=2.5, guidance=GuidanceOptions(scale=0.0))


def build(codec, prediction="v_prediction", size=16, seed=0):
    model = DiffusionModel.from_scratch("tiny", codec, PROMPTS, size, prediction, seed)
    for part in (model.unet, model.text_encoder):
        part.eval().requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def model(tiny_codec):
    return build(tiny_codec)


def stock_latents(pipeline, options, seeds):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=16,
        width=16,
        output_type="latent",
    ).images


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_without_guidance_the_sampler_is_stock(tiny_codec, prediction, guidance_scale):
    model, options = build(tiny_codec, prediction), replace(UNGUIDED, guidance_scale=guidance_scale)
    ours = sample(model, PROMPTS, [5, 6], options=options, progress=False)
    stock = stock_latents(model.pipeline(), options, [5, 6])
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours[0], ours[1])


def test_the_batch_does_not_change_a_tile(model):
    prompts, seeds = [PROMPTS[n % 2] for n in range(9)], list(range(9))
    prototypes = torch.randn(9, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = replace(UNGUIDED, guidance=GuidanceOptions())

    def draw(batch):
        return sample(model, prompts, seeds, prototypes, replace(options, batch=batch), progress=False)

    one = draw(1)
    for batch in (7, 64):
        torch.testing.assert_close(draw(batch), one, rtol=1e-4, atol=1e-4)


def test_guidance_brings_tiles_nearer_to_their_prototypes(model):
    prototypes = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def distance(scale):
        options = replace(UNGUIDED, steps=6, guidance=GuidanceOptions(scale=scale, grid_size=None))
        drawn = sample(model, PROMPTS, [5, 6], prototypes, options, progress=False)
        return float((drawn - prototypes).flatten(1).norm(dim=1).mean())

    assert distance(4.0) < distance(2.0) < distance(0.0)


def test_seeds_alone_decide_what_is_drawn(model):
    torch.manual_seed(1)
    first = sample(model, PROMPTS, [5, 6], options=UNGUIDED, progress=False)
    torch.manual_seed(2)
    assert torch.equal(first, sample(model, PROMPTS, [5, 6], options=UNGUIDED, progress=False))
    swapped = sample(model, PROMPTS, [6, 5], options=UNGUIDED, progress=False)
    assert not torch.allclose(first, swapped)


def test_a_stock_pipeline_loads_a_three_band_model_and_generates(tmp_path, quiet):
    data = load_dataset("synthetic", size=16, chips_per_class=4, bands="rgb", classes=["forest", "beach"])
    codec = create_codec("kl", data.bands, latent_channels=4, block_channels=(8, 16), steps=1, batch=2)
    model = build(codec.fit(data, trainer=quiet))
    stock = StableDiffusionPipeline.from_pretrained(model.save(tmp_path), safety_checker=None)
    wanted = sample(model, PROMPTS, [5, 6], options=UNGUIDED, progress=False)
    torch.testing.assert_close(stock_latents(stock, UNGUIDED, [5, 6]), wanted, rtol=1e-4, atol=1e-4)
    picture = stock(PROMPTS[0], num_inference_steps=2, height=16, width=16).images[0]
    assert picture.size == (16, 16) and picture.mode == "RGB"


def test_a_model_comes_back_equal(model, tmp_path):
    loaded = DiffusionModel.load(model.save(tmp_path / "model"))
    assert loaded.prediction == model.prediction == "v_prediction"
    assert torch.equal(loaded.tokenize(PROMPTS), model.tokenize(PROMPTS))
    draws = [sample(each, PROMPTS, [5, 6], options=UNGUIDED, progress=False) for each in (model, loaded)]
    assert torch.equal(*draws)
    assert not any(p.requires_grad for p in loaded.unet.parameters())


@pytest.mark.parametrize("name", ["unet/*.safetensors", "unet/config.json", "tokenizer/tokenizer*.json"])
def test_a_damaged_model_is_refused(model, tmp_path, name):
    model.save(tmp_path)
    for path in tmp_path.glob(name):
        path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ModelError, match="cannot be read"):
        DiffusionModel.load(tmp_path)


def test_what_cannot_be_built_is_refused(tiny_codec, tmp_path):
    with pytest.raises(ModelError, match="holds no diffusion model"):
        DiffusionModel.load(tmp_path)
    with pytest.raises(UnknownNameError, match="unknown diffusion preset 'tinny': did you mean 'tiny'"):
        DiffusionModel.from_scratch("tinny", tiny_codec, PROMPTS, 16, "epsilon", 0)
    with pytest.raises(ModelError, match=r"latents of 9x9 .*set data\.size to a multiple of 4"):
        DiffusionModel.from_scratch("tiny", tiny_codec, PROMPTS, 18, "epsilon", 0)


def test_weights_follow_the_seed(tiny_codec):
    def weights(seed):
        parts = build(tiny_codec, seed=seed)
        return torch.cat([p.flatten()[:50] for p in [*parts.unet.parameters(), *parts.text_encoder.parameters()]])

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))
    assert torch.equal(before, torch.get_rng_state())


def test_the_tokenizer_gives_texts_back_and_bears_unseen_words():
    tokenizer = build_tokenizer(PROMPTS, 32)
    unseen = "A zeppelin over São Paulo, 1929!"
    for text in (*PROMPTS, unseen, "光"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids[1:-1]
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(decoded.split()) == "".join(text.lower().split())
    assert len(tokenizer("forest").input_ids) == 3
    assert len(tokenizer("zeppelin").input_ids) > 3


def test_prompts_are_padded_and_cut_like_stock_pipelines(model):
    ids = model.tokenize(["forest", "forest " * 100])
    assert ids.shape == (2, model.tokenizer.model_max_length)
    assert model.embed(PROMPTS).shape == (2, 32, model.unet.config.cross_attention_dim)
    assert not torch.allclose(*model.embed(PROMPTS))


def test_the_text_encoder_fits_its_tokenizer():
    tokenizer = build_tokenizer(PROMPTS, 16)
    encoder = build_text_encoder(tokenizer, 16, 1, 2)
    assert encoder.config.vocab_size == len(tokenizer) and encoder.config.eos_token_id == tokenizer.eos_token_id


def test_a_tokenizer_depends_on_its_corpus_alone():
    corpus = ["A satellite image of storage tanks", "A satellite image of centre-pivot farmland"]
    vocabularies = [build_tokenizer(texts, 32).get_vocab() for texts in (corpus, corpus, corpus[::-1], corpus)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


SCHEDULERS = {"ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler, "ddpm": DDPMScheduler}


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("name", [*SCHEDULERS])
def test_text_to_image_is_stock_with_every_scheduler(tiny_codec, prediction, name):
    model, options = build(tiny_codec, prediction), replace(UNGUIDED, steps=6, scheduler=name)
    pipeline = model.pipeline()
    pipeline.scheduler = SCHEDULERS[name].from_config(model.scheduler.config)
    ours = sample(model, PROMPTS, [5, 6], options=options, progress=False)
    torch.testing.assert_close(ours, stock_latents(pipeline, options, [5, 6]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("strength", [0.75, 0.34])
def test_image_to_image_is_stock(tiny_codec, prediction, name, strength):
    model = build(tiny_codec, prediction)
    prototypes = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipeline = StableDiffusionImg2ImgPipeline(**model.pipeline().components, requires_safety_checker=False)
    pipeline.scheduler = SCHEDULERS[name].from_config(model.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(
        PROMPTS,
        # Four channels are what the pipeline takes for latents that are encoded already.
        image=prototypes,
        strength=strength,
        num_inference_steps=8,
        guidance_scale=2.5,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="latent",
    ).images
    options = replace(UNGUIDED, steps=8, scheduler=name, strength=strength)
    ours = sample(model, PROMPTS, [5, 6], prototypes, options, progress=False)
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_image_to_image_needs_prototypes(model):
    with pytest.raises(OptionError, match=r"sampling.strength 0.5 begins at prototypes"):
        sample(model, PROMPTS, [5, 6], options=replace(UNGUIDED, strength=0.5), progress=False)


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++", "ddpm"])
@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_guidance_works_with_every_scheduler(tiny_codec, name, prediction):
    model = build(tiny_codec, prediction)
    prototypes = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    distances = []
    for scale in (0.0, 1.0, 2.0, 4.0):
        options = replace(UNGUIDED, steps=8, scheduler=name, guidance=GuidanceOptions(scale=scale, grid_size=None))
        drawn = sample(model, PROMPTS, [5, 6], prototypes, options, progress=False)
        distances.append(float((drawn - prototypes).flatten(1).norm(dim=1).mean()))
    assert distances == sorted(distances, reverse=True)
