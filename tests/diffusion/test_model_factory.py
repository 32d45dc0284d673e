"""Pretrained pipelines: loaded from safetensors alone, tied to their latents, refused by name where they do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from helpers.pretrained_pipelines import PROMPTS, save_pipeline
from safetensors.torch import load_file, save_file

from rsdistill.codecs import create_codec, encode, load_codec
from rsdistill.codecs.sources import KNOWN, Source
from rsdistill.datasets import load_dataset
from rsdistill.diffusion.denoising import DenoisingModule, train_denoiser
from rsdistill.diffusion.guidance import GuidanceOptions
from rsdistill.diffusion.model_factory import BASE, ModelPlan, base_of, load_pretrained
from rsdistill.diffusion.presets import PRESETS, halvings, list_presets, pretrained_source
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.distillers import create_distiller
from rsdistill.errors import BandError, CodecError, ModelError, OptionError, UnknownNameError
from rsdistill.imaging.normalisation import RangeNormalisation

KINDS = ("sd15", "sd2", "text2earth")
UNGUIDED = SamplingOptions(steps=3, guidance_scale=2.5, guidance=GuidanceOptions(scale=0.0))


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Folder of each kind of pipeline."""
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: save_pipeline(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def rgb():
    return load_dataset("synthetic", size=32, chips_per_class=8, bands="rgb", classes=["forest", "beach", "solar_farm"])


@pytest.fixture(scope="module")
def codecs(pipelines, rgb, quiet):
    """The pipelines' own autoencoders, fitted to the dataset's ranges."""
    return {
        kind: create_codec("pretrained", rgb.bands, source=str(folder)).fit(rgb, trainer=quiet)
        for kind, folder in pipelines.items()
    }


@pytest.fixture
def copy(pipelines, tmp_path):
    """A pipeline to damage."""
    return shutil.copytree(pipelines["sd15"], tmp_path / "copy")


def stock_latents(pipeline, seeds):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS[:2],
        num_inference_steps=UNGUIDED.steps,
        guidance_scale=UNGUIDED.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=32,
        width=32,
        output_type="latent",
    ).images


@pytest.mark.parametrize(("kind", "prediction"), [("sd15", "epsilon"), ("sd2", "v_prediction")])
def test_a_pretrained_model_samples_as_its_stock_pipeline(pipelines, codecs, kind, prediction):
    model = load_pretrained(Source.of(str(pipelines[kind])), codecs[kind], 32)
    assert model.prediction == prediction and model.trains == "unet" and not model.takes_labels
    told = ModelPlan(str(pipelines[kind])).tokenizer(PROMPTS)
    assert told(PROMPTS).input_ids == model.tokenizer(PROMPTS).input_ids
    stock = StableDiffusionPipeline.from_pretrained(pipelines[kind], safety_checker=None)
    stock.scheduler = model.scheduler
    ours = sample(model, PROMPTS[:2], [5, 6], options=UNGUIDED, progress=False)
    torch.testing.assert_close(ours, stock_latents(stock, [5, 6]), rtol=1e-4, atol=1e-4)


def test_the_noise_schedule_is_the_pipelines_and_never_clips(pipelines, codecs):
    for kind in KINDS:
        config = load_pretrained(Source.of(str(pipelines[kind])), codecs[kind], 32).scheduler.config
        saved = json.loads((pipelines[kind] / "scheduler" / "scheduler_config.json").read_text("utf-8"))
        names = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset")
        assert {name: config[name] for name in names} == {name: saved[name] for name in names}
        assert config["clip_sample"] is False


def test_labels_reach_a_unet_that_wants_them_and_the_empty_text_has_none(pipelines, codecs, monkeypatch):
    model = load_pretrained(Source.of(str(pipelines["text2earth"])), codecs["text2earth"], 32, unet_class_label=16)
    seen, forward = [], model.unet.forward

    def watch(*args, class_labels=None, **others):
        seen.append(class_labels.tolist())
        return forward(*args, class_labels=class_labels, **others)

    monkeypatch.setattr(model.unet, "forward", watch)
    drawn = sample(model, PROMPTS[:2], [5, 6], options=UNGUIDED, progress=False)
    assert seen == [[0, 0, 16, 16]] * UNGUIDED.steps
    assert not torch.allclose(drawn, sample(replace(model, unet_class_label=0), PROMPTS[:2], [5, 6], options=UNGUIDED))


def test_training_gives_labels_where_there_is_text(pipelines, codecs, rgb, tmp_path, quiet, monkeypatch):
    latents = encode(codecs["text2earth"], rgb, tmp_path / "latents.zarr", views=1, progress=False)
    model = load_pretrained(Source.of(str(pipelines["text2earth"])), codecs["text2earth"], 32, unet_class_label=12)
    seen, predict = [], model.predict

    def watch(noisy, timesteps, text, told):
        seen.append(told)
        return predict(noisy, timesteps, text, told)

    monkeypatch.setattr(model, "predict", watch)
    options = training(steps=2, batch=6, prompt_dropout=0.5)
    train_denoiser(model, latents, PROMPTS, options, trainer=quiet)
    assert len(seen) == 2 and torch.cat(seen).any() and not torch.cat(seen).all()


def training(**options):
    return create_distiller("dpd", training={"ema_decay": 0.5, **options}).training


def test_whole_tuning_trains_the_unet_alone_and_comes_back(pipelines, codecs, rgb, tmp_path, quiet):
    folder, codec = pipelines["sd2"], codecs["sd2"]
    latents = encode(codec, rgb, tmp_path / "latents.zarr", views=1, progress=False)
    plan = ModelPlan(str(folder))
    model = plan.build(codec, PROMPTS, 32, 0)
    before = {name: value.clone() for name, value in model.text_encoder.state_dict().items()}
    first = next(model.unet.parameters()).clone()
    train_denoiser(model, latents, PROMPTS, training(steps=2, batch=4), trainer=quiet)
    assert all(torch.equal(value, before[name]) for name, value in model.text_encoder.state_dict().items())
    assert not torch.equal(next(model.unet.parameters()), first)
    plan.save(model, tmp_path / "model")
    loaded = plan.load(tmp_path / "model", codec, 32)
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    ours = sample(model, PROMPTS[:2], [5, 6], options=UNGUIDED, progress=False)
    assert torch.equal(ours, sample(loaded, PROMPTS[:2], [5, 6], options=UNGUIDED, progress=False))
    torch.testing.assert_close(ours, stock_latents(stock, [5, 6]), rtol=1e-4, atol=1e-4)
    assert base_of(tmp_path / "model") == Source.of(str(folder)).identity


def test_frozen_weights_stay_out_of_average_and_checkpoint(pipelines, codecs):
    model = load_pretrained(Source.of(str(pipelines["sd15"])), codecs["sd15"], 32)
    module = DenoisingModule(model, model.tokenize([*PROMPTS, ""]), training(), None, 0)
    kept = {name for name in module.state_dict() if name.startswith("trained.")}
    assert kept == {f"trained.unet.{name}" for name, _ in model.unet.named_parameters()}
    assert len(list(module.average.module.parameters())) == len(kept)


def test_the_autoencoder_is_taken_as_it_is(pipelines, codecs, rgb, tmp_path):
    codec = codecs["sd15"]
    own = AutoencoderKL.from_pretrained(pipelines["sd15"], subfolder="vae")
    chips = torch.from_numpy(rgb.train.images()[:3])
    colours = [rgb.bands.names.index(name) for name in ("red", "green", "blue")]
    wanted = own.encode(codec.normalisation_.forward(chips, rgb.bands)[:, colours]).latent_dist.mean
    torch.testing.assert_close(codec.encode(chips), wanted * own.config.scaling_factor, rtol=1e-4, atol=1e-5)
    assert (codec.latent_channels, codec.factor) == (4, 4)
    loaded = load_codec(codec.save(tmp_path / "codec"))
    assert torch.equal(loaded.encode(chips), codec.encode(chips)) and loaded.source == str(pipelines["sd15"])


def test_bands_in_another_order_go_into_their_own_channels(pipelines, codecs, rgb, quiet):
    turned = load_dataset(
        "synthetic",
        size=32,
        chips_per_class=8,
        bands=["blue", "red", "green"],
        classes=["forest", "beach", "solar_farm"],
    )
    codec = create_codec("pretrained", turned.bands, source=str(pipelines["sd15"])).fit(turned, trainer=quiet)
    order = [turned.bands.names.index(name) for name in rgb.bands.names]
    back, ranges = [order.index(band) for band in range(3)], codecs["sd15"].normalisation_
    # Scenes are rendered anew for other bands, so their ranges differ a little.
    codec.normalisation_ = RangeNormalisation(*(tuple(side[b] for b in back) for side in (ranges.low, ranges.high)))
    chips = torch.from_numpy(turned.train.images()[:2])
    latents = codec.encode(chips)
    torch.testing.assert_close(latents, codecs["sd15"].encode(chips[:, order]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.decode(latents)[:, order], codecs["sd15"].decode(latents), rtol=1e-4, atol=1e-2)


def test_names_stand_for_pinned_places():
    for name, known in KNOWN.items():
        source = Source.of(name)
        assert source.on_hub and (source.place, source.revision) == (known.hub, known.revision) and known.revision
        assert halvings(name) == 3 and pretrained_source(name) == source
    pinned = Source.of("owner/model.v2@0123abc")
    assert (pinned.place, pinned.revision, pinned.title) == ("owner/model.v2", "0123abc", "owner/model.v2@0123abc")
    assert Source.of("owner/model").revision is None
    assert pretrained_source("tiny") is None and halvings("small") == 2
    assert [listed.name for listed in list_presets()] == [*PRESETS, *KNOWN]


def test_unknown_places_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown diffusion preset 'sd51': did you mean 'sd15'"):
        pretrained_source("sd51")
    for name in (str(tmp_path / "none"), "./none", "~/none/of/these"):
        with pytest.raises(ModelError, match=r"folder '.*none.*' does not exist; name one in diffusers' format"):
            Source.of(name)


def test_offline_says_which_hub_id_is_missing(rgb):
    with pytest.raises(
        ModelError, match=r"'lcybuaa/Text2Earth' on the hub at revision .* cannot be downloaded and is not"
    ):
        Source.of("text2earth").check()
    with pytest.raises(ModelError, match=r"'owner/model' on the hub cannot be downloaded .* name its folder instead"):
        create_codec("pretrained", rgb.bands, source="owner/model").factor  # noqa: B018
    # What is known by name needs no look: a run in a place without network is checked all the same.
    codec = create_codec("pretrained", rgb.bands, source="sd15")
    assert (codec.factor, codec.latent_channels) == (8, 4)


def test_what_is_no_pipeline_is_refused(copy, tmp_path):
    source, index = Source.of(str(copy)), copy / "model_index.json"
    parts = json.loads(index.read_text("utf-8"))

    def refused(match, **changes):
        index.write_text(json.dumps({name: value for name, value in (parts | changes).items() if value}), "utf-8")
        with pytest.raises(ModelError, match=match):
            source.check()

    two = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    refused("is a SDXL, not of Stable Diffusion's layout .*it has a text_encoder_2", _class_name="SDXL", **two)
    refused("text_encoder is a T5EncoderModel", text_encoder=["transformers", "T5EncoderModel"])
    refused("lacks tokenizer", tokenizer=None)
    index.write_text(json.dumps(parts | {"_class_name": "Text2EarthDiffusionPipeline"}), "utf-8")
    source.check()
    shutil.rmtree(copy / "unet")
    with pytest.raises(ModelError, match="lacks unet; download or save the whole pipeline again"):
        source.check()
    index.write_text("{", "utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        source.check()
    index.unlink()
    with pytest.raises(ModelError, match=r"holds no pipeline .*model_index.json is missing.*from_single_file"):
        source.check()


def test_weights_outside_safetensors_and_lost_weights_are_refused(copy, codecs):
    source, path = Source.of(str(copy)), copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("conv_in.weight")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"unet of folder .* lacks 1 weights, the first is conv_in.weight"):
        load_pretrained(source, codecs["sd15"], 32)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"unet of folder .* cannot be read"):
        load_pretrained(source, codecs["sd15"], 32)
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"unet of folder .* cannot be read .* safetensors"):
        load_pretrained(source, codecs["sd15"], 32)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"addition_embed_type": "text_time"}, r"wants additional embeddings \('text_time'\)"),
        ({"class_embed_type": "projection"}, "takes class labels as 'projection' embeddings"),
        ({"in_channels": 9}, r"takes 9 channels, but codec 'pretrained' gives 4; choose codec 'pretrained'"),
    ],
)
def test_a_unet_that_wants_more_is_refused(copy, codecs, values, match):
    change(copy / "unet" / "config.json", **values)
    with pytest.raises(ModelError, match=match):
        load_pretrained(Source.of(str(copy)), codecs["sd15"], 32)


def test_labels_and_prediction_must_fit_the_pipeline(pipelines, codecs, copy):
    with pytest.raises(OptionError, match=r"option unet_class_label 3: UNet of .* takes no labels"):
        load_pretrained(Source.of(str(pipelines["sd15"])), codecs["sd15"], 32, unet_class_label=3)
    change(copy / "unet" / "config.json", num_class_embeds=3)
    with pytest.raises(OptionError, match=r"option unet_class_label 3: .* knows the labels 0 to 2"):
        load_pretrained(Source.of(str(copy)), codecs["sd15"], 32, unet_class_label=3)
    with pytest.raises(OptionError, match=r"option prediction 'v_prediction': .* was trained to predict 'epsilon'"):
        ModelPlan(str(pipelines["sd15"]), "v_prediction").build(codecs["sd15"], PROMPTS, 32, 0)
    change(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    change(copy / "unet" / "config.json", num_class_embeds=None)
    with pytest.raises(ModelError, match="predicts 'sample'"):
        load_pretrained(Source.of(str(copy)), codecs["sd15"], 32)


def test_latents_of_another_codec_are_refused(pipelines, rgb, quiet):
    source = Source.of(str(pipelines["sd15"]))
    other = {"steps": 1, "batch": 2, "block_channels": (8, 8, 8)}
    codec = create_codec("kl", rgb.bands, latent_channels=4, **other).fit(rgb, trainer=quiet)
    with pytest.raises(
        ModelError, match=r"trained on latents scaled by 0.18215, but codec 'kl' scales by .*subfolder: vae"
    ):
        load_pretrained(source, codec, 32)
    codec = create_codec("kl", rgb.bands, latent_channels=8, **other).fit(rgb, trainer=quiet)
    with pytest.raises(ModelError, match="takes 4 channels, but codec 'kl' gives 8"):
        load_pretrained(source, codec, 32)


def test_codecs_of_a_run_take_the_autoencoder_of_the_preset(pipelines):
    method = create_distiller("dpd", preset="sd15")
    place = {"pretrained": KNOWN["sd15"].hub, "revision": KNOWN["sd15"].revision, "subfolder": "vae"}
    assert method.requirements.codec_options == {"pretrained": {"source": "sd15"}, "inflated": place}
    assert not create_distiller("dpd").requirements.codec_options


def test_more_bands_enter_by_an_inflated_autoencoder(copy, codecs, rgb, quiet, tmp_path):
    # Random weights give latents of no spread, which a trained autoencoder's scale brings to unit variance.
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    spread = float(codecs["sd15"].encode(torch.from_numpy(rgb.train.images())).std())
    save_file({n: w / spread if n.startswith("quant_conv") else w for n, w in load_file(path).items()}, path)
    four = load_dataset("synthetic", size=32, chips_per_class=8, classes=["forest", "beach", "solar_farm"])
    method = create_distiller("dpd", preset=str(copy), lora={"rank": 2})
    place = method.requirements.codec_options["inflated"]
    codec = create_codec("inflated", four.bands, steps=2, batch=2, lr=1e-6, **place).fit(four, trainer=quiet)
    latents = encode(codec, four, tmp_path / "latents.zarr", views=1, progress=False)
    model = method.plan_.build(codec, PROMPTS, 32, 0)
    train_denoiser(model, latents, PROMPTS, training(steps=1, batch=4), trainer=quiet)
    drawn = sample(model, PROMPTS, [1, 2, 3], options=UNGUIDED, progress=False)
    assert codec.decode(drawn).shape == (3, 4, 32, 32) and model.vae.config.in_channels == 4


def test_sizes_that_the_unet_cannot_halve_are_refused(pipelines, codecs):
    with pytest.raises(ModelError, match=r"latents of 12x12 .* set data.size to a multiple of 32"):
        load_pretrained(Source.of(str(pipelines["sd15"])), codecs["sd15"], 48)


def test_the_codec_is_for_rgb_and_needs_a_source(pipelines, tiny_data, rgb, copy):
    with pytest.raises(BandError, match="takes red, green and blue as they are, but 4 bands were given"):
        create_codec("pretrained", tiny_data.bands, source=str(pipelines["sd15"]))
    with pytest.raises(OptionError, match="needs option source: sd15, sd2, text2earth"):
        create_codec("pretrained", rgb.bands)
    grey = AutoencoderKL(in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(8,), norm_num_groups=4)
    grey.save_pretrained(copy / "vae")
    with pytest.raises(CodecError, match="takes 1 channels and gives 1"):
        create_codec("pretrained", rgb.bands, source=str(copy)).fit(rgb)


def test_the_identity_is_of_the_weights_not_of_the_place(pipelines, copy):
    told = Source.of(str(copy)).identity
    assert told["folder"] == "copy" and told["weights"] == Source.of(str(pipelines["sd15"])).identity["weights"]
    assert str(copy.parent) not in json.dumps(told)
    path = copy / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert Source.of(str(copy)).identity["weights"] != told["weights"]


def test_options_of_pretrained_models_are_refused_from_scratch():
    with pytest.raises(OptionError, match="option lora is for pretrained models, but preset 'tiny'"):
        create_distiller("dpd", lora={"rank": 2})
    with pytest.raises(OptionError, match="option unet_class_label is for pretrained models"):
        create_distiller("dpd", unet_class_label=2)
    with pytest.raises(OptionError, match="unet_label is now unet_class_label"):
        create_distiller("dpd", unet_label=2)
    assert ModelPlan().options() == {"preset": "tiny", "prediction": "v_prediction"}


def test_a_damaged_note_of_the_base_is_refused(tmp_path):
    assert base_of(tmp_path) is None
    (tmp_path / BASE).write_text("{", "utf-8")
    with pytest.raises(ModelError, match="base.json cannot be read"):
        base_of(tmp_path)
