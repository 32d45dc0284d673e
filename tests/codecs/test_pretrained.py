"""``inflated``: the pretrained model at the start whatever the order of bands, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny

from rsdistill.bands import Band, BandSet, get_bands
from rsdistill.codecs import create_codec, load_codec
from rsdistill.codecs.pretrained import find_colours, inflate, nearest_colours
from rsdistill.datasets import load_dataset
from rsdistill.errors import BandError, CodecError, OptionError

CLASSES = ["forest", "beach", "solar_farm"]
BGRN = get_bands("bgrn")
SENTINEL2 = get_bands("sentinel2")


def _autoencoder(channels=3, **options):
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=16,
        **options,
    ).eval()


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Folder of a random RGB autoencoder as diffusers saves it."""
    folder = tmp_path_factory.mktemp("pretrained") / "vae"
    _autoencoder(scaling_factor=0.5, shift_factor=0.1).save_pretrained(folder)
    return folder


def _data(bands):
    return load_dataset("synthetic", size=16, chips_per_class=8, bands=bands, classes=CLASSES)


def _untrained(data, pretrained, quiet, **options):
    codec = create_codec("inflated", data.bands, pretrained=str(pretrained), steps=1, batch=2, lr=1e-12, **options)
    return codec.fit(data, trainer=quiet)


@pytest.mark.parametrize("bands", [["red", "green", "blue"], ["blue", "green", "red"], ["nir", "blue", "red", "green"]])
def test_colours_are_rebuilt_as_the_pretrained_model_does(pretrained, quiet, bands):
    data = _data(bands)
    codec = _untrained(data, pretrained, quiet)
    stock = AutoencoderKL.from_pretrained(pretrained)
    chips = torch.from_numpy(data.val.images()).float()
    for seed in (0, 1):
        if "nir" in bands and seed:
            # Whatever the other bands hold.
            chips[:, bands.index("nir")] = 1.0 + 9000.0 * torch.rand(chips[:, 0].shape)
        normalised = codec.normalisation_.forward(chips, data.bands)
        colours = [bands.index(colour) for colour in ("red", "green", "blue")]
        with torch.no_grad():
            latents = stock.encode(normalised[:, colours]).latent_dist
            wanted = stock.decode(latents.mean).sample
            rebuilt = codec.autoencoder().decode(codec.autoencoder().encode(normalised).latent_dist.mean).sample
        assert torch.allclose(rebuilt[:, colours], wanted, rtol=0, atol=1e-5)
        scale = codec.autoencoder().config.scaling_factor
        assert torch.allclose(codec.posterior(chips)[0], latents.mean * scale, rtol=1e-5, atol=1e-5)
        if "nir" in bands:
            assert torch.allclose(rebuilt[:, bands.index("nir")], wanted[:, 0], rtol=0, atol=1e-5)


def test_eight_bit_colours_span_what_pretrained_models_expect(pretrained, quiet):
    data = load_dataset("synthetic", size=16, chips_per_class=8, bands="rgb", classes=CLASSES)
    normalised = _untrained(data, pretrained, quiet).normalisation_
    assert normalised.low == (0.0,) * 3 and normalised.high == (255.0,) * 3


def test_bands_start_from_the_colour_nearest_in_wavelength():
    assert find_colours(BGRN) == (2, 1, 0) and find_colours(SENTINEL2) == (3, 2, 1)
    chosen = dict(zip(SENTINEL2.names, nearest_colours(SENTINEL2, find_colours(SENTINEL2)), strict=True))
    assert [chosen[name] for name in ("B01", "B02", "B03", "B04", "B05", "B8A", "B12")] == [2, 2, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("patch", "channels"), [(1, {"block_channels": (8, 16)}), (4, {"patch": 4, "block_channels": (16,)})]
)
def test_a_codec_of_ours_tells_the_order_of_its_bands(patch, channels, quiet, tmp_path):
    data = _data(["blue", "green", "red"])
    ours = create_codec("kl", data.bands, latent_channels=4, steps=4, batch=4, **channels)
    ours.fit(data, trainer=quiet).save(tmp_path)
    inflated = _untrained(_data(["red", "nir", "green", "blue"]), tmp_path, quiet, patch=patch)
    assert inflated.factor == ours.factor
    chips = torch.from_numpy(data.val.images())
    wider = torch.zeros(len(chips), 4, 16, 16)
    wider[:, [3, 2, 0]] = ours.normalisation_.forward(chips, data.bands)
    with torch.no_grad():
        latents = inflated.autoencoder().encode(F.pixel_unshuffle(wider, patch)).latent_dist.mean
        rebuilt, wanted = (
            F.pixel_shuffle(codec.autoencoder().decode(latents).sample, patch) for codec in (inflated, ours)
        )
    scale = ours.autoencoder().config.scaling_factor
    assert torch.allclose(latents * scale, ours.encode(chips), atol=1e-5)
    assert torch.allclose(rebuilt[:, [3, 2, 0]], wanted, rtol=0, atol=1e-5)
    loaded = load_codec(inflated.save(tmp_path / "inflated"))
    assert torch.equal(loaded.encode(wider), inflated.encode(wider))


def test_patches_of_a_codec_of_ours_must_be_told(quiet, tmp_path):
    data = _data(["red", "green", "blue"])
    ours = create_codec("kl", data.bands, latent_channels=4, steps=1, batch=4, patch=4, block_channels=(16,))
    ours.fit(data, trainer=quiet).save(tmp_path)
    codec = create_codec("inflated", BGRN, pretrained=str(tmp_path))
    with pytest.raises(CodecError, match=r"takes 48 channels .* RGB autoencoder of 3 and 3; .*codec\.patch"):
        codec.fit(_data(["blue", "green", "red", "nir"]), trainer=quiet)


def test_the_frozen_middle_does_not_move(pretrained, quiet):
    data = _data(["blue", "green", "red", "nir"])
    stock = AutoencoderKL.from_pretrained(pretrained).state_dict()

    def moved(freeze):
        codec = create_codec("inflated", data.bands, pretrained=str(pretrained), freeze=freeze, steps=3, batch=4)
        weights = codec.fit(data, trainer=quiet).autoencoder().state_dict()
        ends = {n for n in stock if n.startswith(("encoder.conv_in", "decoder.conv_out"))}
        return {n for n in stock if n not in ends and not torch.equal(stock[n], weights[n])}, weights

    middle, weights = moved("middle")
    assert not middle and weights["encoder.conv_in.weight"][:, 3].abs().max() > 0.0
    assert len(moved("none")[0]) > 20


def test_holding_keeps_latents_and_colours_near_the_pretrained_ones(pretrained, quiet):
    data = _data(["blue", "green", "red", "nir"])
    chips = torch.from_numpy(data.val.images())
    start = _untrained(data, pretrained, quiet).autoencoder()

    @torch.no_grad()
    def moved(**hold):
        codec = create_codec("inflated", data.bands, pretrained=str(pretrained), steps=25, batch=8, lr=3e-3, **hold)
        vae = codec.fit(data, trainer=quiet).autoencoder()
        normalised = codec.normalisation_.forward(chips, data.bands)
        ours, theirs = (model.encode(normalised).latent_dist.mean for model in (vae, start))
        colours = [model.decode(latents).sample[:, :3] for model, latents in ((vae, ours), (start, theirs))]
        return float((ours - theirs).abs().mean()), float((colours[0] - colours[1]).abs().mean())

    free = moved(hold=0.0, hold_latents=0.0)
    assert moved(hold=0.0, hold_latents=30.0)[0] < 0.5 * free[0]
    assert moved(hold=30.0, hold_latents=0.0)[1] < 0.5 * free[1]


def test_the_scale_stays_unless_it_is_far_off(pretrained, quiet, tmp_path):
    data = _data(["red", "green", "blue"])
    rescaled = _untrained(data, pretrained, quiet)
    chips = torch.from_numpy(data.train.images())
    assert float(rescaled.encode(chips).std()) == pytest.approx(1.0, abs=1e-3)
    fitting = 1.5 * rescaled.autoencoder().config.scaling_factor
    _autoencoder(scaling_factor=fitting).save_pretrained(tmp_path)
    assert _untrained(data, tmp_path, quiet).autoencoder().config.scaling_factor == fitting


def test_an_inflated_codec_comes_back_equal(pretrained, quiet, tmp_path):
    data = _data(["blue", "green", "red", "nir"])
    codec = _untrained(data, pretrained, quiet, freeze="middle", hold=0.5, loss={"error": "rms"})
    loaded = load_codec(codec.save(tmp_path))
    chips = torch.from_numpy(data.val.images())
    assert torch.equal(loaded.encode(chips), codec.encode(chips)) and torch.equal(
        loaded.reconstruct(chips), codec.reconstruct(chips)
    )
    assert (loaded.freeze, loaded.hold, loaded.loss.error, loaded.factor) == ("middle", 0.5, "rms", 2)
    stock = AutoencoderKL.from_pretrained(tmp_path)
    assert stock.config.in_channels == stock.config.out_channels == 4 and stock.config.shift_factor is None


def test_channels_go_where_they_are_told():
    vae = _autoencoder()
    same = inflate(inflate(vae, [2, 0, 1], [2, 0, 1]), [1, 2, 0], [1, 2, 0])
    assert all(torch.equal(a, b) for a, b in zip(vae.state_dict().values(), same.state_dict().values(), strict=True))


def _bands(**centres):
    return BandSet(tuple(Band(name, centre) for name, centre in centres.items()), sensor="mine")


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (SENTINEL2.select(["B04", "B03", "B08"]), r"no blue band: .*'sentinel2' \(B04, B03, B08\).*0\.49 µm"),
        (SENTINEL2.select(["B02", "B03", "B08"]), "no red band"),
        (SENTINEL2.select(["B01", "B03", "B04"]), "no blue band"),
        (_bands(red=0.66, green=0.56, blue=0.49, thermal=None), "band 'thermal' of sensor 'mine' has no centre"),
        (_bands(pan=0.6, red=0.66), "no blue band"),
        (_bands(cyan=0.525, red=0.66), "band 'cyan' of sensor 'mine' lies between two colours"),
    ],
)
def test_sets_without_a_colour_or_wavelength_are_refused(bands, message):
    with pytest.raises(BandError, match=message):
        create_codec("inflated", bands, pretrained="none")


def test_other_models_are_refused(tmp_path, pretrained):
    for name, model in (("four", _autoencoder(4)), ("tiny", AutoencoderTiny(encoder_block_out_channels=(8,) * 4))):
        model.save_pretrained(tmp_path / name)
    for place, message in (
        ("four", r"four' takes 4 channels and gives 4.*RGB autoencoder"),
        ("tiny", "holds the model 'AutoencoderTiny', not an AutoencoderKL"),
        ("nothing", r"nothing' cannot be read.*check codec\.pretrained"),
    ):
        codec = create_codec("inflated", BGRN, pretrained=str(tmp_path / place), local_files_only=True)
        with pytest.raises(CodecError, match=message):
            codec.factor  # noqa: B018 - reading it asks the model
    assert create_codec("inflated", BGRN, pretrained=str(pretrained.parent), subfolder="vae").factor == 2
    with pytest.raises(OptionError, match="codec.inflated.freeze"):
        create_codec("inflated", BGRN, pretrained=str(pretrained), freeze="ends")


def test_a_model_on_the_hub_that_is_not_here_is_named():
    codec = create_codec("inflated", BGRN, pretrained="somebody/some-vae", revision="main", local_files_only=True)
    with pytest.raises(CodecError, match=r"codec\.pretrained 'somebody/some-vae' cannot be read"):
        codec.factor  # noqa: B018 - reading it asks the hub's cache


def test_weights_in_pickle_are_not_read(pretrained, quiet, tmp_path):
    (tmp_path / "config.json").write_text((pretrained / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    torch.save(_autoencoder().state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(CodecError, match="in safetensors"):
        _untrained(_data(["red", "green", "blue"]), tmp_path, quiet)


def test_a_codec_of_ours_without_colours_is_refused_as_pretrained(pretrained, quiet, tmp_path):
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (tmp_path / name).write_bytes((pretrained / name).read_bytes())
    bands = SENTINEL2.select(["B08", "B04", "B03"]).to_dict()
    (tmp_path / "codec.json").write_text(json.dumps({"codec": "kl", "bands": bands}), encoding="utf-8")
    with pytest.raises(BandError, match="is no RGB autoencoder: no blue band"):
        _untrained(_data(["red", "green", "blue"]), tmp_path, quiet)


def test_chips_of_another_band_count_are_refused(pretrained, quiet):
    codec = create_codec("inflated", SENTINEL2, pretrained=str(pretrained))
    with pytest.raises(BandError, match=r"a chip of synthetic has 4 band\(s\).*'sentinel2' has 13"):
        codec.fit(_data(["blue", "green", "red", "nir"]), trainer=quiet)
