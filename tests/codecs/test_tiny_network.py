"""Tiny networks: read from every published layout, given other bands, refused where they are damaged."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderTiny
from helpers.pretrained_pipelines import tiny_weights
from safetensors.torch import load_file, save_file

from rsdistill.codecs.tiny_network import TinyNetwork, load_tiny
from rsdistill.errors import CodecError

LAYOUT = {"latent_channels": 5}


@pytest.fixture
def folder(tmp_path):
    return tiny_weights(tmp_path / "tiny")


@pytest.fixture
def file(tmp_path):
    """A file in the layout of TAEF2: layers counted, pooling branches in the blocks at the smallest resolution."""
    torch.manual_seed(0)
    shape = {"encoder_block_out_channels": [64] * 4, "decoder_block_out_channels": [64] * 4}
    network = TinyNetwork(LAYOUT | shape, {"encoder": [11, 12, 13], "decoder": [2, 3, 4]})
    keyed = {}
    for key, value in network.state_dict().items():
        part, _, place, rest = key.split(".", 3)
        keyed[f"{part}.{int(place) + (part == 'decoder')}.{rest}"] = value.half()
    save_file(keyed, tmp_path / "taef2.safetensors")
    return tmp_path / "taef2.safetensors"


def test_a_folder_gives_what_diffusers_gives(folder):
    network, stock = load_tiny(str(folder)).eval(), AutoencoderTiny.from_pretrained(folder).eval()
    pictures = torch.rand(2, 3, 8, 8) * 2 - 1
    latents = stock.encode(pictures).latents
    assert torch.equal(network.encode(pictures), latents) and latents.shape == (2, 4, 4, 4)
    assert torch.equal(network.decode(latents), stock.decode(latents).sample)
    assert (network.latent_channels, network.factor) == (4, 2)


def test_a_file_with_counted_layers_and_pooling_branches_is_read(file):
    network = load_tiny(str(file))
    assert (network.latent_channels, network.factor) == (5, 8)
    stored = load_file(file)
    assert torch.equal(network.encoder.layers[11].pool[0].weight, stored["encoder.11.pool.0.weight"].float())
    # The decoder's first layer in the file is the clamp of latents, which has no weights.
    assert torch.equal(network.decoder.layers[0].weight, stored["decoder.1.weight"].float())
    assert network.decode(network.encode(torch.zeros(1, 3, 16, 16))).shape == (1, 3, 16, 16)


def test_the_pooling_branch_is_added_before_the_block(file):
    block = load_tiny(str(file)).encoder.layers[11]
    inputs = torch.randn(1, 64, 2, 2)
    pooled = inputs + block.pool(inputs)
    torch.testing.assert_close(block(inputs), (block.conv(pooled) + pooled).clamp_min(0))


def test_further_bands_change_nothing_at_the_start(folder):
    network, wide = load_tiny(str(folder)), load_tiny(str(folder))
    wide.extend([2, None, 1, 0], [2, 0, 1, 0])
    pictures = torch.rand(2, 4, 8, 8)
    latents = wide.encode(pictures)
    torch.testing.assert_close(latents, network.encode(pictures[:, [3, 2, 0]]))
    torch.testing.assert_close(wide.decode(latents), network.decode(latents)[:, [2, 0, 1, 0]])


def test_a_network_is_built_again_from_its_description(folder, tmp_path):
    network = load_tiny(str(folder))
    network.extend([0, 1, 2, None], [0, 1, 2, 2])
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    again = TinyNetwork.of(network.description(), tmp_path / "w.safetensors")
    pictures = torch.rand(1, 4, 8, 8)
    assert torch.equal(again.encode(pictures), network.encode(pictures))


def harm(name, folder, file, tmp_path):
    if name == "missing":
        return "nowhere/at all/x"
    if name == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
        return file
    if name == "other layout":
        save_file({"unet.conv_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
        return tmp_path / "other.safetensors"
    if name == "no encoder":
        save_file({"decoder.1.weight": torch.zeros(64, 4, 3, 3)}, tmp_path / "half.safetensors")
        return tmp_path / "half.safetensors"
    if name == "incomplete":
        save_file({k: v for k, v in load_file(file).items() if k != "decoder.1.bias"}, tmp_path / "part.safetensors")
        return tmp_path / "part.safetensors"
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "encoder.layers.0" not in k}, weights)
    return folder


@pytest.mark.parametrize(
    "name", ["missing", "truncated", "other layout", "no encoder", "incomplete", "incomplete folder"]
)
def test_damaged_weights_are_named_with_what_to_do_offline(name, folder, file, tmp_path):
    source = str(harm(name, folder, file, tmp_path))
    with pytest.raises(CodecError, match="without a network") as refused:
        load_tiny(source)
    assert source in str(refused.value)


def test_an_autoencoder_for_other_bands_is_refused(tmp_path):
    tiny_weights(tmp_path, in_channels=4, out_channels=4)
    with pytest.raises(CodecError, match="takes 4 bands and gives 4"):
        load_tiny(str(tmp_path))


def test_a_hub_id_that_is_not_in_the_cache_is_named():
    with pytest.raises(CodecError, match="nobody/no-such-model"):
        load_tiny("nobody/no-such-model", local_files_only=True)
