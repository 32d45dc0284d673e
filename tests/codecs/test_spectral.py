"""Codec ``spectral``: one trained codec for any bands within its range, and one space of latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from sklearn.linear_model import LinearRegression

from rsdistill.bands import Band, BandSet, get_bands
from rsdistill.codecs import create_codec, load_codec
from rsdistill.codecs.spectral import SpectralTraining
from rsdistill.datasets import load_dataset
from rsdistill.errors import ArtifactError, BandError, CodecError, OptionError

S2 = get_bands("sentinel2")
FOUR = S2.select(["B02", "B03", "B04", "B08"])
CLASSES = ["forest", "beach", "solar_farm"]
SMALL = {"latent_channels": 6, "patch": 4, "width": 24, "batch": 8}


def scenes(sensor):
    """The same scenes as another sensor sees them."""
    return load_dataset("synthetic", size=16, chips_per_class=24, classes=CLASSES, bands=sensor)


@pytest.fixture(scope="module")
def data():
    return scenes("sentinel2")


@pytest.fixture(scope="module")
def codec(data, quiet):
    return create_codec("spectral", data.bands, **SMALL, steps=60, lr=2e-3).fit(data, trainer=quiet)


@pytest.fixture(scope="module")
def start(data, quiet):
    """A codec as good as untrained."""
    return create_codec("spectral", data.bands, **SMALL, steps=1, lr=1e-9).fit(data, trainer=quiet)


@pytest.fixture(scope="module")
def chips(data):
    return torch.from_numpy(data.test.images(np.arange(9)))


def correlation(first, second):
    return float(np.corrcoef(first.flatten(), second.flatten())[0, 1])


def test_one_codec_encodes_every_sensor_into_one_space(codec, chips):
    ours = codec.encode(chips)
    for sensor in ("rgb", "bgrn"):
        other = scenes(sensor)
        same = torch.from_numpy(other.test.images(np.arange(9)))
        theirs = codec.for_bands(other.bands, other.train.images()).encode(same)
        assert theirs.shape == ours.shape == (9, 6, 4, 4)
        # The same ground gives nearly the same latents, other ground does not.
        assert correlation(ours, theirs) > 0.7
        assert correlation(ours, theirs) > correlation(ours, theirs.flip(0)) + 0.2


def test_eight_bits_need_no_chips_for_their_range(codec):
    rgb = get_bands("rgb")
    alone = codec.for_bands(rgb)
    assert alone.normalisation_.low == (0.0,) * 3 and alone.normalisation_.high == (255.0,) * 3
    assert codec.decode(torch.zeros(1, 6, 4, 4), rgb).shape == (1, 3, 16, 16)


def test_a_subset_keeps_ranges_and_its_latents_come_near_those_of_all_bands(codec, chips):
    part = codec.for_bands(FOUR)
    places = S2.indices(FOUR.names)
    assert part.normalisation_.low == tuple(codec.normalisation_.low[i] for i in places)
    assert part.normalisation_.high == tuple(codec.normalisation_.high[i] for i in places)
    assert correlation(part.encode(chips[:, places]), codec.encode(chips)) > 0.9


def test_units_are_brought_to_those_of_the_fit(codec, chips):
    thousandths = replace(FOUR, scale=1e-3, valid_range=(0.0, 1000.0), dtype="float32")
    places = S2.indices(FOUR.names)
    wanted = codec.for_bands(FOUR).encode(chips[:, places])
    torch.testing.assert_close(codec.for_bands(thousandths).encode(chips[:, places] / 10.0), wanted, rtol=0, atol=1e-4)


def test_the_order_of_bands_changes_nothing(codec, chips):
    order = np.random.default_rng(0).permutation(len(S2)).tolist()
    shuffled = codec.for_bands(replace(S2, bands=tuple(S2.bands[i] for i in order)))
    ours, theirs = codec.encode(chips), shuffled.encode(chips[:, order])
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    ranges = codec.normalisation_
    torch.testing.assert_close(
        shuffled.normalisation_.forward(shuffled.decode(theirs), shuffled.bands),
        ranges.forward(codec.decode(ours), S2)[:, order],
        rtol=0,
        atol=1e-5,
    )


def test_bands_out_of_order_can_be_fitted_on(chips, quiet):
    some = S2.select(["B12", "B04", "B8A", "B02"])
    codec = create_codec("spectral", some, **SMALL, steps=1, lr=1e-9).fit(scenes(some.to_dict()), trainer=quiet)
    two = S2.select(["B02", "B12"])
    ours = codec.encode(chips[:, S2.indices(some.names)])
    assert correlation(codec.for_bands(two).encode(chips[:, S2.indices(two.names)]), ours) > 0.7


def test_unseen_bands_are_told_from_four(codec, data):
    images = data.test.images()
    unseen = [place for place, name in enumerate(S2.names) if name not in FOUR.names]
    four = torch.from_numpy(images[:, S2.indices(FOUR.names)])
    ours = codec.decode(codec.for_bands(FOUR).encode(four))[:, unseen].numpy()
    average = data.train.images()[:, unseen].mean((0, 2, 3))[None, :, None, None]
    errors = [np.sqrt(np.mean((guess - images[:, unseen]) ** 2)) for guess in (ours, average)]
    assert errors[0] < 0.4 * errors[1]


@pytest.mark.real_data
@pytest.mark.slow
def test_unseen_bands_of_eurosat_beat_linear_regression_from_the_start(real_data_root, quiet):
    data = load_dataset("eurosat", real_data_root / "eurosat_ms", size=64, train=0.5, val=0.1)
    codec = create_codec("spectral", data.bands, steps=1, lr=1e-9, batch=2).fit(data, trainer=quiet)
    seen = data.bands.indices(FOUR.names)
    unseen = [place for place in range(len(data.bands)) if place not in seen]

    def pixels(view):
        return np.moveaxis(view.images(), 1, -1).reshape(-1, len(data.bands)).astype(np.float64)

    train, val = pixels(data.train), pixels(data.val)
    regression = LinearRegression().fit(train[:, seen], train[:, unseen]).predict(val[:, seen])
    chips = torch.from_numpy(data.val.images()[:, seen])
    decoded = codec.decode(codec.for_bands(data.bands.select(FOUR.names)).encode(chips))[:, unseen]
    ours = np.moveaxis(decoded.numpy(), 1, -1).reshape(-1, len(unseen))
    errors = [np.sqrt(np.square(guess - val[:, unseen]).mean(0)).mean() for guess in (ours, regression)]
    assert errors[0] < 0.9 * errors[1]


def test_the_fit_lowers_the_error_of_subsets(codec, start, data, chips):
    def error(fitted):
        some = fitted.for_bands(FOUR)
        rebuilt = fitted.decode(some.encode(chips[:, S2.indices(FOUR.names)]))
        return float(
            (fitted.normalisation_.forward(rebuilt, S2) - fitted.normalisation_.forward(chips, S2)).abs().mean()
        )

    assert error(codec) < error(start)
    assert codec.psnr(data.val) > start.psnr(data.val) - 0.1


def test_a_band_between_two_is_decoded_between_them(start, chips):
    between = replace(S2, bands=(Band("x", 0.6122, 0.03),))
    latents = start.encode(chips)
    decoded = start.decode(latents, between)[:, 0]
    green, red = (start.decode(latents)[:, S2.index(name)] for name in ("B03", "B04"))
    low, high = torch.minimum(green, red), torch.maximum(green, red)
    slack = 0.1 * (high - low).mean()
    assert ((decoded > low - slack) & (decoded < high + slack)).float().mean() > 0.9


def test_it_comes_back_equal(codec, chips, tmp_path):
    loaded = load_codec(codec.save(tmp_path / "codec"))
    ours, theirs = codec.for_bands(FOUR), loaded.for_bands(FOUR)
    four = chips[:, S2.indices(FOUR.names)]
    assert torch.equal(loaded.encode(chips), codec.encode(chips))
    assert torch.equal(theirs.encode(four), ours.encode(four))
    assert torch.equal(loaded.decode(theirs.encode(four)), codec.decode(ours.encode(four)))
    assert loaded.origin_ == codec.origin_ and repr(loaded) == repr(codec)


def test_a_codec_of_a_subset_comes_back_and_still_knows_all_bands(codec, chips, tmp_path):
    part = codec.for_bands(FOUR)
    loaded = load_codec(part.save(tmp_path / "codec"))
    four = chips[:, S2.indices(FOUR.names)]
    assert loaded.bands == FOUR and torch.equal(loaded.encode(four), part.encode(four))
    assert torch.equal(loaded.decode(loaded.encode(four), S2), codec.decode(part.encode(four)))


@pytest.mark.parametrize("bands", [S2, FOUR])
def test_stock_diffusers_loads_it(codec, chips, tmp_path, bands):
    part = codec.for_bands(bands)
    stock = AutoencoderKL.from_pretrained(part.save(tmp_path))
    some = chips[:, S2.indices(bands.names)]
    patches = F.pixel_unshuffle(part.normalisation_.forward(some, bands), part.patch)
    latents = stock.encode(patches).latent_dist.mean
    torch.testing.assert_close(latents * stock.config.scaling_factor, part.encode(some), rtol=0, atol=1e-5)
    wanted = part.normalisation_.inverse(F.pixel_shuffle(stock.decode(latents).sample, part.patch))
    torch.testing.assert_close(part.decode(part.encode(some)), wanted, rtol=1e-4, atol=0.5)


def test_weights_are_those_that_were_trained(codec, chips):
    """What the fit saw through generated layers is what the baked autoencoder computes."""
    names = set(codec.autoencoder().state_dict())
    assert {"encoder.conv_in.weight", "decoder.conv_out.weight"} <= names
    weight, bias = codec.layers_.first(FOUR)
    part = codec.for_bands(FOUR).autoencoder()
    assert torch.equal(part.encoder.conv_in.weight, weight) and torch.equal(part.encoder.conv_in.bias, bias)
    shared = [name for name in names if not name.startswith(("encoder.conv_in.", "decoder.conv_out."))]
    whole = codec.autoencoder().state_dict()
    assert len(shared) > 20 and all(torch.equal(part.state_dict()[name], whole[name]) for name in shared)


def test_subsets_are_drawn_as_asked(codec, quiet):
    training = SpectralTraining(codec)
    drawn = [training.draw(step) for step in range(400)]
    assert 0.4 < np.mean([d is None for d in drawn]) < 0.6
    assert S2.indices(["B02", "B03", "B04"]) in drawn and S2.indices(FOUR.names) in drawn
    sizes = {len(d) for d in drawn if d is not None}
    assert sizes == set(range(1, len(S2))) and drawn == [training.draw(step) for step in range(400)]
    training.full_share = 1.0
    assert all(training.draw(step) is None for step in range(20))


def test_bands_it_cannot_place_are_named(codec, chips):
    def custom(*bands):
        return BandSet(bands, "drone", "uint16", (0.0, 65535.0), 1e-4)

    with pytest.raises(BandError, match=r"band 'x1' of sensor 'drone' has no centre wavelength.*state its 'centre'"):
        create_codec("spectral", custom(Band("x1"), Band("red", 0.65)))
    with pytest.raises(BandError, match=r"band 'x1' of sensor 'drone' has no centre"):
        codec.for_bands(custom(Band("red", 0.65), Band("x1")))
    with pytest.raises(BandError, match=r"'thermal' of sensor 'drone' at 10.9 µm lies outside the 0\.432 to 2\.290 µm"):
        codec.decode(codec.encode(chips), custom(Band("thermal", 10.9)))
    with pytest.raises(BandError, match=r"'a' and 'b' of sensor 'drone' have the same wavelength"):
        create_codec("spectral", custom(Band("a", 0.65), Band("b", 0.65)))
    with pytest.raises(BandError, match=r"13 band\(s\).*has 4"):
        codec.for_bands(FOUR).encode(chips)


def test_units_that_cannot_be_told_need_chips(codec):
    raw = BandSet((Band("red", 0.65), Band("nir", 0.85)), "drone", "uint16", (0.0, 4095.0))
    with pytest.raises(CodecError, match=r"sensor 'drone'.*give for_bands some chips"):
        codec.for_bands(raw)
    chips = np.random.default_rng(0).integers(0, 4096, (4, 2, 16, 16)).astype(np.uint16)
    assert codec.for_bands(raw, chips).encode(torch.from_numpy(chips)).shape == (4, 6, 4, 4)


def test_mistakes_are_named(data, quiet, tmp_path):
    with pytest.raises(OptionError, match=r"codec\.width 32 must be above 33"):
        create_codec("spectral", S2, width=32)
    unfitted = create_codec("spectral", get_bands("rgb"), **{**SMALL, "patch": 1})
    with pytest.raises(CodecError, match="not fitted"):
        unfitted.for_bands(FOUR)
    with pytest.raises(CodecError, match="not fitted"):
        unfitted.save(tmp_path / "codec")
    with pytest.raises(CodecError, match=r"cannot start 6 latent channels from patches of 3 values"):
        unfitted.fit(scenes("rgb"), trainer=quiet)
    with pytest.raises(CodecError, match=r"multiple of 3"):
        create_codec("spectral", S2, **{**SMALL, "patch": 3}).fit(data, trainer=quiet)


def test_a_damaged_file_of_layers_is_refused(codec, tmp_path):
    codec.save(tmp_path)
    layers = tmp_path / "layers.safetensors"
    layers.write_bytes(layers.read_bytes()[:300])
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_codec(tmp_path)


def test_pixels_without_data_do_not_spoil_the_fit(data, quiet):
    class Spoilt:
        """The train view with a corner of nodata in one chip of eight."""

        def __init__(self, view):
            self.view = view

        def __len__(self):
            return len(self.view)

        def images(self, which=None):
            images = self.view.images(which).copy()
            images[::8, :, :5, :5] = 0
            return images

    spoilt = create_codec("spectral", S2, **SMALL, steps=2).fit(replace(data, train=Spoilt(data.train)), trainer=quiet)
    assert spoilt.psnr(data.val) > 20.0
