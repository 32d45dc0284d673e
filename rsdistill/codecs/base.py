"""Codec: the interface between chips and latents."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError

from rsdistill.bands import BandSet, check_count
from rsdistill.codecs.losses import spectral_angle, to_reflectance
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import ArtifactError, CodecError
from rsdistill.imaging.normalisation import sample_positions, valid_pixels
from rsdistill.registry import Registry
from rsdistill.training.trainer import TrainerOptions
from rsdistill.utils.io import complete_folder, write_json

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

DESCRIPTION = "codec.json"


class Codec(ABC):
    """Encoder and decoder between chips in sensor units and latents of about unit variance.

    Latents are in the scaled space that the diffusion model sees (diffusers' ``scaling_factor``
    is applied here, on both ways).

    A subclass implements :attr:`latent_channels`, :attr:`factor`, :meth:`fit`, :meth:`posterior`, :meth:`decode`,
    :meth:`to`, :meth:`save_weights` and :meth:`load_weights`; all else follows from them.

    Attributes:
        name: Registered name.
        bands: The bands it encodes and decodes.
    """

    name: str
    bands: BandSet

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels C of the latents."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """How many times smaller latents are than chips along each side."""

    @abstractmethod
    def fit(self, data: SceneData, folder: str | Path | None = None, trainer: TrainerOptions | None = None) -> Self:
        """Learn from the train view alone.

        Args:
            data: The dataset.
            folder: Where training checkpoints go, to resume from; None keeps none.
            trainer: Devices and the like.
        """

    @abstractmethod
    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the latents of chips.

        Args:
            images: Chips of shape (N, B, H, W) in sensor units.

        Returns:
            Two tensors of shape (N, C, h, w).

        Raises:
            BandError: If the chips have another number of bands.
            CodecError: If their sides are no multiple of the codec's factor, or it is not fitted.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, h, w) to chips (N, B, H, W) in sensor units, float32, unrounded.

        The weights are frozen after the fit, but latents that ask for a gradient get one.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Move the weights to a device."""

    def figures(self, data: SceneData) -> dict[str, float]:
        """Reconstruction error on the validation chips, or on train where there are none.

        Returns:
            ``psnr``: peak signal-to-noise ratio in dB over the bands' normalised ranges, mean of chips.
            ``sam``: spectral angle in degrees, mean of pixels with data; only with two bands or more.
        """
        view = data.val if len(data.val) else data.train
        figures = {"psnr": round(self.psnr(view), 2)}
        return figures | {"sam": round(self.sam(view), 3)} if len(self.bands) > 1 else figures

    def psnr(self, view: SceneView) -> float:
        """Mean PSNR in dB of reconstructed chips of a view, at most 512; peak = width of the bands' valid range.

        Codecs that normalise bands by a range of their own take that one's width.
        """
        chips = torch.from_numpy(view.images(sample_positions(len(view), 0)))
        low, high = self.bands.valid_range
        values = []
        for part in chips.split(64):
            valid = valid_pixels(part, self.bands)
            apart = torch.where(valid, self.reconstruct(part.float()) - part.float(), 0.0)
            error = apart.square().sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp_min(1)
            values.append(10.0 * torch.log10((high - low) ** 2 / error.clamp_min(1e-20)))
        return float(torch.cat(values).mean())

    def sam(self, view: SceneView) -> float:
        """Mean spectral angle in degrees between chips of a view, at most 512, and their reconstructions."""
        chips = torch.from_numpy(view.images(sample_positions(len(view), 0)))
        angles, weights = [], []
        for part in chips.split(64):
            ours, theirs = (to_reflectance(images, self.bands) for images in (self.reconstruct(part), part.float()))
            valid = valid_pixels(part, self.bands)
            angles.append(float(spectral_angle(ours, theirs, valid)))
            weights.append(int(valid.all(1).sum()))
        return math.degrees(sum(a * w for a, w in zip(angles, weights, strict=True)) / max(1, sum(weights)))

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Encode and decode chips (N, B, H, W) in sensor units, float32, unrounded, on the CPU."""
        return self.decode(self.encode(images)).cpu()

    def autoencoder(self) -> AutoencoderKL | None:
        """The fitted autoencoder as the ``vae`` of a stock diffusers pipeline; None for a codec that is none.

        A codec that can be a Stable Diffusion ``vae`` says so by returning it. Any other serves all methods too,
        with a denoiser from scratch.

        Raises:
            CodecError: If the codec is not fitted.
        """
        return None

    @abstractmethod
    def save_weights(self, folder: Path) -> dict[str, Any]:
        """Write weights to a folder: safetensors or diffusers' format, never pickle.

        Args:
            folder: It is there, and empty.

        Returns:
            What :meth:`load_weights` needs beside them, as plain JSON types; ``codec`` and ``bands`` are added.

        Raises:
            CodecError: If the codec is not fitted.
        """

    @classmethod
    @abstractmethod
    def load_weights(cls, folder: Path, description: dict[str, Any]) -> Codec:
        """Rebuild the fitted codec.

        Args:
            folder: What :meth:`save_weights` wrote to.
            description: What it returned, with the bands as of ``BandSet.to_dict`` under ``bands``.
        """

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Chips (N, B, H, W) in sensor units to the posterior mean of their latents (N, C, h, w)."""
        return self.posterior(images)[0]

    def save(self, folder: str | Path) -> Path:
        """Write the codec, in place of one that is there: diffusers' folder format, bands and normalisation as JSON.

        Raises:
            CodecError: If it is not fitted.
            StorageError: If the folder cannot be written.
        """
        folder = Path(folder)
        with complete_folder(folder, overwrite=True) as partial:
            description = {"codec": self.name, "bands": self.bands.to_dict(), **self.save_weights(partial)}
            write_json(partial / DESCRIPTION, description)
        return folder

    def _check(self, shape: Sequence[int], where: str) -> None:
        """Refuse chips of this shape (B, H, W) that the codec cannot take.

        Raises:
            BandError: If they have another number of bands.
            CodecError: If their sides are no multiple of the factor.
        """
        check_count(shape[0], self.bands, where)
        if any(side % self.factor for side in shape[1:]):
            raise CodecError(
                f"{where} has shape {'x'.join(map(str, shape))}, but codec '{self.name}' needs sides that are a "
                f"multiple of {self.factor}; set data.size to one"
            )


CODECS: Registry[Codec] = Registry("codec", "rsdistill.codecs")


def create_codec(name: str, bands: BandSet, **options: Any) -> Codec:
    """Build an unfitted codec by name.

    Args:
        name: One of :func:`list_codecs`.
        bands: The bands that it is to encode.
        **options: The codec's own options.

    Raises:
        UnknownNameError: If the name or an option is unknown.
    """
    return CODECS.create(name, bands=bands, **options)


def list_codecs() -> list[str]:
    """Names of the codecs there are."""
    return CODECS.names()


def load_codec(folder: str | Path) -> Codec:
    """Read a codec that :meth:`Codec.save` wrote.

    Raises:
        ArtifactError: If the folder holds none, or it cannot be read.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    if not path.exists():
        raise ArtifactError(f"{folder} holds no codec ({DESCRIPTION} is missing); fit and save one first")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        kind: Any = CODECS.get(description["codec"]).factory
        codec: Codec = kind.load_weights(folder, description)
        return codec
    except (KeyError, ValueError, TypeError, OSError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"codec in {folder} cannot be read ({error}); fit and save it again") from error
