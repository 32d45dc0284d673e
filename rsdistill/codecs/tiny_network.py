"""The networks of tiny pretrained autoencoders: diffusers' ``AutoencoderTiny``, and the layout of TAEF2."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderTiny
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from rsdistill.codecs.sources import HUB_ID
from rsdistill.errors import CodecError

_KEY = re.compile(r"(encoder|decoder)\.(\d+)\.(.+)")
_POOLED_GROUPS = 4
# A file counts the clamp at the decoder's entry as a layer, diffusers does not.
_DECODER_OFFSET = 1
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
# What a machine with a network, or one without, does about weights that are not there.
_REMEDY = (
    "name a .safetensors file, a folder in diffusers' format, or a hub id that this machine can download or has in "
    "its cache; without a network, download it elsewhere and name the folder, or choose codec 'kl'"
)


class PooledBlock(nn.Module):
    """A block of ``AutoencoderTiny`` whose input has the output of a pooling branch added first."""

    def __init__(self, block: Any, width: int) -> None:
        super().__init__()
        self.conv = block.conv
        self.pool = nn.Sequential(
            nn.Conv2d(width, _POOLED_GROUPS * width, 1, bias=False),
            nn.GroupNorm(_POOLED_GROUPS, _POOLED_GROUPS * width),
            nn.ReLU(),
            nn.Conv2d(_POOLED_GROUPS * width, width, 1, bias=False),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Activations (N, C, h, w) to others of the same shape."""
        pooled = inputs + self.pool(inputs)
        outputs: torch.Tensor = (self.conv(pooled) + pooled).relu()
        return outputs


class TinyNetwork(nn.Module):
    """Encoder and decoder of a tiny autoencoder, on pictures in -1..1 and latents as they were trained.

    Args:
        config: Configuration of ``AutoencoderTiny``.
        pooled: Positions of the layers with a pooling branch, for encoder and decoder.
    """

    def __init__(self, config: Mapping[str, Any], pooled: Mapping[str, Iterable[int]]) -> None:
        super().__init__()
        tiny = AutoencoderTiny(**config)
        self.encoder, self.decoder = tiny.encoder, tiny.decoder
        self.config, self.pooled = dict(config), {part: sorted(places) for part, places in pooled.items()}
        for part, places in self.pooled.items():
            layers = getattr(self, part).layers
            for place in places:
                layers[place] = PooledBlock(layers[place], layers[place].conv[0].in_channels)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.encoder.layers[-1].out_channels)

    @property
    def factor(self) -> int:
        """How many times smaller latents are than pictures along each side."""
        return int(2 ** (len(self.config["num_encoder_blocks"]) - 1))

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (N, B, H, W) in -1..1 to latents (N, C, h, w)."""
        latents: torch.Tensor = self.encoder(pictures)
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, h, w) to pictures (N, B, H, W) in -1..1."""
        pictures: torch.Tensor = self.decoder(latents)
        return pictures

    def extend(self, entering: Sequence[int | None], leaving: Sequence[int]) -> None:
        """Give the first and the last convolution other bands.

        Args:
            entering: For each new input band, whose weights it takes; None for zeros.
            leaving: For each new output band, whose weights it takes.
        """
        first, last = self.encoder.layers[0], self.decoder.layers[-1]
        blank = torch.zeros_like(first.weight[:, 0])
        first.weight = nn.Parameter(
            torch.stack([blank if band is None else first.weight[:, band] for band in entering], 1).detach()
        )
        last.weight = nn.Parameter(last.weight[list(leaving)].detach())
        last.bias = nn.Parameter(last.bias[list(leaving)].detach())
        first.in_channels, last.out_channels = len(entering), len(leaving)
        self.config |= {"in_channels": len(entering), "out_channels": len(leaving)}

    def description(self) -> dict[str, Any]:
        """What :meth:`of` builds the same network from, as plain JSON types."""
        return {"config": self.config, "pooled": self.pooled}

    @classmethod
    def of(cls, description: Mapping[str, Any], weights: Path) -> Self:
        """The network of a :meth:`description`, with the weights of a safetensors file.

        Raises:
            ValueError, OSError, RuntimeError: If they do not fit, or cannot be read.
        """
        network = cls(description["config"], description["pooled"])
        network.load_state_dict(load_file(weights))
        return network


def load_tiny(source: str, local_files_only: bool = False) -> TinyNetwork:
    """A pretrained tiny autoencoder for red, green and blue.

    Args:
        source: A safetensors file with the layers of encoder and decoder numbered, as TAESD's authors publish
            them; a folder in diffusers' format; or a hub id, with ``@revision`` for a fixed one.
        local_files_only: Never look on the hub beyond what is already downloaded.

    Raises:
        CodecError: If it is missing, truncated, of another layout, or not for three bands.

    Source: Bohan, Tiny AutoEncoder for Stable Diffusion, 2023.
    """
    try:
        path = Path(source).expanduser()
        network = _from_file(path) if path.is_file() else _from_diffusers(source, local_files_only)
    except _LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise CodecError(
            f"codec.source '{source}' cannot be read as a tiny autoencoder ({reason}); {_REMEDY}"
        ) from error
    bands = network.encoder.layers[0].in_channels, network.decoder.layers[-1].out_channels
    if bands != (3, 3):
        raise CodecError(
            f"codec.source '{source}' takes {bands[0]} bands and gives {bands[1]}, but codec 'tiny' starts from an "
            f"autoencoder for red, green and blue; choose another"
        )
    return network


def _from_diffusers(source: str, local_files_only: bool) -> TinyNetwork:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        found = HUB_ID.fullmatch(source)
        if found is None:
            raise OSError("there is no such file or folder")
        folder = Path(
            snapshot_download(
                found["id"],
                revision=found["revision"],
                allow_patterns=["config.json", "*.safetensors"],
                local_files_only=local_files_only,
            )
        )
    loaded: Any = AutoencoderTiny.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    tiny, report = loaded
    if report["missing_keys"]:
        raise ValueError(f"it lacks {len(report['missing_keys'])} weights, such as {min(report['missing_keys'])}")
    names = list(inspect.signature(AutoencoderTiny).parameters)
    network = TinyNetwork({name: tiny.config[name] for name in names}, {})
    network.load_state_dict({name: value.float() for name, value in tiny.state_dict().items()})
    return network


def _from_file(path: Path) -> TinyNetwork:
    """Weights whose keys count the layers, activations and upsampling included."""
    weights, pooled = {}, {"encoder": set[int](), "decoder": set[int]()}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - it is no dict
            found = _KEY.fullmatch(key)
            if found is None:
                raise ValueError(f"the key '{key}' belongs to another layout")
            part, place = found[1], int(found[2]) - (_DECODER_OFFSET if found[1] == "decoder" else 0)
            if found[3].startswith("pool."):
                pooled[part].add(place)
            weights[f"{part}.layers.{place}.{found[3]}"] = file.get_tensor(key).float()
    last = max((int(k.split(".")[2]) for k in weights if k.startswith("encoder.")), default=None)
    if last is None:
        raise ValueError("it holds no encoder")
    channels = int(weights[f"encoder.layers.{last}.weight"].shape[0])
    network = TinyNetwork({"latent_channels": channels} | _SHAPE, pooled)
    network.load_state_dict(weights)
    return network


# Shape of every tiny autoencoder that is published as a single file.
_SHAPE: dict[str, Any] = {
    "encoder_block_out_channels": [64] * 4,
    "decoder_block_out_channels": [64] * 4,
    "num_encoder_blocks": [1, 3, 3, 3],
    "num_decoder_blocks": [3, 3, 3, 1],
}
