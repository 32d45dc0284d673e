"""``kl``: a fit that learns, from random weights or block PCA; weights that stock diffusers reads."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from sklearn.decomposition import PCA
from torchmetrics.image import SpectralAngleMapper

from rsdistill.bands import get_bands
from rsdistill.codecs import create_codec, list_codecs, load_codec
from rsdistill.datasets import load_dataset
from rsdistill.errors import ArtifactError, BandError, CodecError, OptionError, StorageError, UnknownNameError
from rsdistill.imaging.normalisation import to_sensor

BGRN = get_bands("bgrn")


@pytest.fixture(scope="module")
def chips(tiny_data):
    return torch.from_numpy(tiny_data.train.images(np.arange(6)))


def test_the_fit_lowers_the_error(tiny_codec, tiny_data, quiet):
    untrained = create_codec(
        "kl", tiny_data.bands, latent_channels=4, block_channels=(8, 16), steps=1, batch=8, lr=1e-9
    )
    untrained.fit(tiny_data, trainer=quiet)
    assert tiny_codec.psnr(tiny_data.val) > untrained.psnr(tiny_data.val) + 2.0
    figures = tiny_codec.figures(tiny_data)
    assert figures == {"psnr": round(tiny_codec.psnr(tiny_data.val), 2), "sam": round(tiny_codec.sam(tiny_data.val), 3)}


def test_the_spectral_angle_is_that_of_torchmetrics_in_degrees(tiny_codec, tiny_data):
    chips = torch.from_numpy(tiny_data.val.images())
    reference = SpectralAngleMapper()(tiny_codec.reconstruct(chips), chips.float())
    assert tiny_codec.sam(tiny_data.val) == pytest.approx(np.degrees(float(reference)), rel=1e-4)


def test_the_same_seed_gives_the_same_codec(tiny_data, quiet):
    def weights(seed):
        codec = create_codec("kl", tiny_data.bands, block_channels=(8, 8), steps=3, batch=4, seed=seed)
        return torch.cat([p.flatten() for p in codec.fit(tiny_data, trainer=quiet).autoencoder().parameters()])

    torch.manual_seed(5)
    first = weights(0)
    torch.manual_seed(6)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))


def test_shapes_and_scale_of_latents(tiny_codec, tiny_data, chips):
    mean, logvar = tiny_codec.posterior(chips)
    assert mean.shape == logvar.shape == (6, tiny_codec.latent_channels, 8, 8) and tiny_codec.factor == 2
    assert torch.equal(tiny_codec.encode(chips), mean)
    assert tiny_codec.decode(mean).shape == chips.shape
    train = tiny_codec.encode(torch.from_numpy(tiny_data.train.images()))
    assert float(train.std()) == pytest.approx(1.0, abs=1e-3)


def test_the_scale_is_applied_on_both_ways(tiny_codec, chips):
    vae = tiny_codec.autoencoder()
    normalised = tiny_codec.normalisation_.forward(chips, tiny_codec.bands)
    raw = vae.encode(normalised).latent_dist
    mean, logvar = tiny_codec.posterior(chips)
    torch.testing.assert_close(mean / vae.config.scaling_factor, raw.mean)
    torch.testing.assert_close(torch.exp(0.5 * logvar) / vae.config.scaling_factor, raw.std)
    wanted = tiny_codec.normalisation_.inverse(vae.decode(raw.mean).sample)
    torch.testing.assert_close(tiny_codec.decode(mean), wanted, rtol=1e-4, atol=0.5)


def test_a_codec_comes_back_equal(tiny_codec, chips, tmp_path):
    loaded = load_codec(tiny_codec.save(tmp_path / "codec"))
    assert loaded.bands == tiny_codec.bands and loaded.normalisation_ == tiny_codec.normalisation_
    assert torch.equal(loaded.encode(chips), tiny_codec.encode(chips))
    assert (loaded.factor, loaded.latent_channels) == (tiny_codec.factor, tiny_codec.latent_channels)
    names = [name for name in inspect.signature(type(loaded)).parameters if name != "bands"]
    assert len(names) == 10 and loaded.steps == 40
    assert all(getattr(loaded, name) == getattr(tiny_codec, name) for name in names)


def test_stock_diffusers_loads_it(tiny_codec, chips, tmp_path):
    stock = AutoencoderKL.from_pretrained(tiny_codec.save(tmp_path))
    normalised = tiny_codec.normalisation_.forward(chips, tiny_codec.bands)
    latents = stock.encode(normalised).latent_dist.mean * stock.config.scaling_factor
    assert stock.config.in_channels == 4 and torch.equal(latents, tiny_codec.encode(chips))


@pytest.mark.parametrize(("name", "keep"), [("codec.json", 20), ("config.json", 20), ("*.safetensors", 200)])
def test_a_damaged_codec_is_refused(tiny_codec, tmp_path, name, keep):
    tiny_codec.save(tmp_path)
    (path,) = tmp_path.glob(name)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_codec(tmp_path)


def test_a_folder_without_a_codec_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds no codec"):
        load_codec(tmp_path)


def test_chips_that_do_not_fit_are_refused(tiny_codec, tiny_data, quiet):
    with pytest.raises(CodecError, match="4x15x16.*multiple of 2"):
        tiny_codec.encode(torch.zeros(1, 4, 15, 16))
    with pytest.raises(BandError, match=r"3 band\(s\).*'bgrn' has 4"):
        tiny_codec.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(BandError, match=r"4 band\(s\).*'rgb' has 3"):
        create_codec("kl", get_bands("rgb")).fit(tiny_data, trainer=quiet)
    with pytest.raises(CodecError, match=r"a chip of synthetic.*multiple of 32; set data\.size"):
        create_codec("kl", tiny_data.bands, block_channels=[8] * 6).fit(tiny_data, trainer=quiet)


def test_a_codec_must_be_fitted(chips, tmp_path):
    codec = create_codec("kl", BGRN)
    for act in (lambda: codec.encode(chips), codec.autoencoder, lambda: codec.save(tmp_path / "codec")):
        with pytest.raises(CodecError, match="not fitted"):
            act()
    assert not list(tmp_path.iterdir())


def test_a_codec_is_not_saved_into_a_file(tiny_codec, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        tiny_codec.save(tmp_path / "file" / "codec")


@pytest.mark.parametrize("widths", [(8, 12), (), (0,)])
def test_widths_must_be_multiples_of_eight(widths):
    with pytest.raises(OptionError, match="multiple of 8"):
        create_codec("kl", BGRN, block_channels=widths)


def test_codecs_are_listed():
    assert "kl" in list_codecs()


def test_a_killed_fit_of_the_codec_ends_like_an_undisturbed_one(tiny_data, quiet, tmp_path, monkeypatch):
    def fitted(folder=None):
        codec = create_codec("kl", tiny_data.bands, block_channels=(8, 8), steps=6, batch=4)
        codec.fit(tiny_data, folder, replace(quiet, checkpoint_seconds=0.0))
        return codec.autoencoder().state_dict()

    whole = fitted()
    forward, calls = AutoencoderKL.encode, iter(range(1000))

    def fails_once(self, *args, **kwargs):
        if next(calls) == 3:
            raise RuntimeError("killed")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "encode", fails_once)
    with pytest.raises(RuntimeError, match="killed"):
        fitted(tmp_path)
    resumed = fitted(tmp_path)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_three_eight_bit_bands(quiet):
    data = load_dataset("synthetic", size=8, chips_per_class=4, bands="rgb", classes=["forest", "beach"])
    codec = create_codec("kl", data.bands, block_channels=(8, 8), steps=1, batch=2).fit(data, trainer=quiet)
    assert to_sensor(codec.decode(codec.encode(torch.from_numpy(data.train.images()))), data.bands).dtype == np.uint8


def test_one_resolution_starts_at_block_pca(tiny_data, quiet):
    def untrained(patch, widths):
        codec = create_codec(
            "kl", tiny_data.bands, latent_channels=4, patch=patch, block_channels=widths, steps=1, batch=2, lr=1e-9
        )
        return codec.fit(tiny_data, trainer=quiet)

    codec = untrained(2, [16])
    chips = torch.from_numpy(tiny_data.val.images())
    assert codec.factor == 2 and codec.encode(chips).shape == (len(chips), 4, 8, 8)
    blocks = torch.nn.functional.pixel_unshuffle(codec.normalisation_.forward(chips, codec.bands), 2)
    assert codec.psnr(tiny_data.val) > untrained(1, [8, 16]).psnr(tiny_data.val) + 3.0
    rows = blocks.permute(0, 2, 3, 1).reshape(-1, 16).numpy()
    rest = PCA(4).fit(rows).inverse_transform(PCA(4).fit_transform(rows)) - rows
    # Block PCA of the validation chips themselves, which the help of neighbours makes up for.
    assert codec.psnr(tiny_data.val) == pytest.approx(10 * np.log10(4 / np.mean(rest**2)), abs=1.5)
    with pytest.raises(CodecError, match=r"cannot start 4 latent channels from patches of 3 values"):
        create_codec("kl", get_bands("rgb"), latent_channels=4, block_channels=[16]).fit(
            load_dataset("synthetic", size=8, chips_per_class=4, bands="rgb", classes=["forest", "beach"])
        )


def test_pixels_without_data_pull_neither_the_start_nor_the_fit(tiny_data, quiet, monkeypatch):
    def fitted(steps, lr):
        codec = create_codec(
            "kl", tiny_data.bands, latent_channels=4, patch=2, block_channels=[16], steps=steps, batch=8, lr=lr
        )
        return codec.fit(tiny_data, trainer=quiet)

    clean = fitted(1, 1e-9)
    read = tiny_data.source.read

    def with_gap(index):
        chip = read(index).copy()
        chip[:, :6, :6] = tiny_data.bands.nodata
        return chip

    monkeypatch.setattr(tiny_data.source, "read", with_gap)
    spoilt = fitted(1, 1e-9)
    view = tiny_data.val
    assert spoilt.psnr(view) == pytest.approx(clean.psnr(view), abs=0.5)
    everything = fitted(12, 1e-3)
    assert all(torch.isfinite(p).all() for p in everything.autoencoder().parameters())
    assert np.isfinite(everything.psnr(view)) and np.isfinite(everything.sam(view))


def test_options_of_the_loss_that_there_are_not_are_answered():
    with pytest.raises(UnknownNameError, match=r"spectral_angel.*did you mean 'spectral_angle'"):
        create_codec("kl", BGRN, loss={"spectral_angel": 1.0})
    with pytest.raises(OptionError, match=r"loss\.band_weights was removed"):
        create_codec("kl", BGRN, loss={"band_weights": "noise"})


def test_a_constant_band_is_rebuilt(tiny_data, quiet, monkeypatch):
    read = tiny_data.source.read

    def constant(index):
        chip = read(index).copy()
        chip[3] = 12
        return chip

    monkeypatch.setattr(tiny_data.source, "read", constant)
    codec = create_codec("kl", tiny_data.bands, latent_channels=4, patch=2, block_channels=[16], steps=4, batch=8)
    codec.fit(tiny_data, trainer=quiet)
    rebuilt = codec.reconstruct(torch.from_numpy(tiny_data.val.images()))
    assert torch.isfinite(rebuilt).all() and float((rebuilt[:, 3] - 12).abs().max()) < 10.0
