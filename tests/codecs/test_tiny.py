"""The codec ``tiny``: standardised latents, colours by wavelength, further bands learned, kept and read back."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderTiny
from helpers.pretrained_pipelines import tiny_weights

from rsdistill.codecs import create_codec, load_codec
from rsdistill.codecs.tiny import TinyCodec
from rsdistill.datasets import load_dataset
from rsdistill.errors import BandError, CodecError, OptionError
from rsdistill.imaging.normalisation import RangeNormalisation
from rsdistill.testing import check_codec


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(tiny_weights(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def rgb_data():
    """Two classes of 12 rendered chips of 16 px in red, green and blue."""
    return load_dataset("synthetic", size=16, chips_per_class=12, bands="rgb", classes=["forest", "beach"])


@pytest.fixture(scope="module")
def fitted(rgb_data, source):
    return TinyCodec(rgb_data.bands, source, precision="32").fit(rgb_data)


def test_each_channel_of_the_train_latents_is_standardised(fitted, rgb_data):
    latents = fitted.encode(torch.from_numpy(rgb_data.train.images()))
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_frozen_it_is_what_diffusers_makes_of_red_green_and_blue(fitted, rgb_data, source):
    stock = AutoencoderTiny.from_pretrained(source).eval()
    chips = torch.from_numpy(rgb_data.val.images()).float()
    with torch.no_grad():
        wanted = stock.decode(stock.encode(chips / 127.5 - 1).latents).sample
    torch.testing.assert_close(fitted.reconstruct(chips), (wanted + 1) * 127.5, atol=0.01, rtol=1e-3)


def test_colours_go_in_by_wavelength_whatever_their_order(rgb_data, source):
    data = load_dataset("synthetic", size=16, chips_per_class=12, bands=["blue", "red", "green"], classes=["forest"])
    codec = TinyCodec(data.bands, source, precision="32").fit(data)
    stock = AutoencoderTiny.from_pretrained(source).eval()
    normalisation = RangeNormalisation.fit(data.train.images(), data.bands)
    chips = torch.from_numpy(data.val.images())
    with torch.no_grad():
        wanted = stock.decode(stock.encode(normalisation.forward(chips, data.bands)[:, [1, 2, 0]]).latents).sample
    rebuilt = normalisation.forward(codec.reconstruct(chips), data.bands)
    torch.testing.assert_close(rebuilt[:, [1, 2, 0]], wanted, atol=1e-4, rtol=1e-4)


def test_further_bands_are_learned(tiny_data, source, quiet):
    options = {"source": source, "batch": 8, "precision": "32", "lr": 5e-3}
    short = TinyCodec(tiny_data.bands, steps=1, **options).fit(tiny_data, trainer=quiet)
    longer = TinyCodec(tiny_data.bands, steps=60, **options).fit(tiny_data, trainer=quiet)
    assert longer.psnr(tiny_data.val) > short.psnr(tiny_data.val) + 1
    middle = [name for name, _ in longer._network.named_parameters() if "encoder.layers.1." in name]
    ours, theirs = longer._network.state_dict(), short._network.state_dict()
    assert middle and all(torch.equal(ours[name], theirs[name]) for name in middle)


def test_the_whole_can_be_tuned(rgb_data, source, quiet):
    before = TinyCodec(rgb_data.bands, source, precision="32").fit(rgb_data).psnr(rgb_data.val)
    tuned = TinyCodec(rgb_data.bands, source, trained="all", steps=60, batch=8, precision="32")
    assert tuned.fit(rgb_data, trainer=quiet).psnr(rgb_data.val) > before + 1


@pytest.mark.parametrize("bands", ["rgb", "bgrn"])
def test_it_keeps_the_contract_of_codecs_through_a_run(source, bands):
    check_codec("tiny", {"source": source, "steps": 2, "batch": 4, "precision": "32"}, bands=bands)


def test_it_is_read_back_as_it_was(fitted, rgb_data, tmp_path):
    fitted.save(tmp_path / "codec")
    again = load_codec(tmp_path / "codec")
    chips = torch.from_numpy(rgb_data.val.images())
    assert torch.equal(again.encode(chips), fitted.encode(chips))
    assert torch.equal(again.reconstruct(chips), fitted.reconstruct(chips))


def test_refinement_gets_a_gradient(fitted):
    latents = torch.randn(2, 4, 8, 8, requires_grad=True)
    fitted.decode(latents).sum().backward()
    assert float(latents.grad.abs().sum()) > 0


def test_half_precision_is_near_full(fitted, rgb_data, source):
    half = TinyCodec(rgb_data.bands, source, precision="bf16").fit(rgb_data)
    chips = torch.from_numpy(rgb_data.val.images())
    assert half.reconstruct(chips).dtype == torch.float32
    assert not torch.equal(half.encode(chips), fitted.encode(chips))
    torch.testing.assert_close(half.encode(chips), fitted.encode(chips), atol=0.2, rtol=0)


def test_bands_without_a_way_in_are_refused(tiny_data, source):
    with pytest.raises(OptionError, match="trained 'none' leaves 1 bands"):
        TinyCodec(tiny_data.bands, source, trained="none")


def test_bands_without_a_colour_are_refused(tiny_data, source):
    with pytest.raises(BandError, match="no red band"):
        create_codec("tiny", tiny_data.bands.select(["blue", "green", "nir"]), source=source)


def test_chips_of_an_odd_side_are_refused(fitted):
    with pytest.raises(CodecError, match="multiple of 2"):
        fitted.encode(torch.zeros(1, 3, 9, 9))


def test_without_a_fit_it_says_so(rgb_data, source):
    codec = TinyCodec(rgb_data.bands, source)
    assert (codec.latent_channels, codec.factor) == (4, 2)
    with pytest.raises(CodecError, match="not fitted"):
        codec.encode(torch.zeros(1, 3, 8, 8))


@pytest.mark.real_data
def test_published_weights_rebuild_scenes(real_data_root):
    data = load_dataset("ucmerced", real_data_root / "ucmerced", size=64, classes=["harbor", "river"])
    codec = TinyCodec(data.bands, str(real_data_root / "weights" / "taef2.safetensors")).fit(data)
    assert codec.psnr(data.val) > 24
