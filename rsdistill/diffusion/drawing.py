"""Sampling shared out to processes, and kept batch by batch, so that a kill loses one batch at most."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.errors import ArtifactError, storage_errors
from rsdistill.training import TrainerOptions, predict, resolve_device

_LATENTS = "latents"


@dataclass(frozen=True, eq=False)
class Request:
    """Latents to draw.

    Attributes:
        prompts: One text a sample.
        seeds: One seed a sample.
        prototypes: Guiding latents, (n, C, h, w).
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    prototypes: torch.Tensor

    def part(self, start: int, size: int) -> Request:
        """So many samples from a position on."""
        these = slice(start, start + size)
        return Request(self.prompts[these], self.seeds[these], self.prototypes[these])


def draw(model: DiffusionModel, request: Request, options: SamplingOptions, progress: bool = True) -> torch.Tensor:
    """Draw in this process alone: latents (n, C, h, w) on the CPU."""
    return sample(model, request.prompts, request.seeds, request.prototypes, options, progress)


def draw_into(
    folder: Path, model: DiffusionModel, request: Request, options: SamplingOptions, trainer: TrainerOptions
) -> None:
    """Draw what is not yet in a folder, shared out to the processes; the batches are those of :func:`draw`.

    Args:
        folder: A folder of this request's own that all processes see.
        model: A trained model.
        request: What to draw.
        options: Steps, scales, batch.
        trainer: Devices and strategy. Sampling is in full precision, whatever training was in.

    Raises:
        StorageError: If the folder cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    left = [start for start in _starts(request, options) if not _file(folder, start).exists()]
    # Also where nothing is left: the processes meet there, so none can run ahead of what another still looks for.
    predict(_Drawing(folder, model, request, options), left, replace(trainer, precision="32-true"), "sample")
    model.to(resolve_device(trainer))


def drawn_in(folder: Path, request: Request, options: SamplingOptions) -> torch.Tensor:
    """What :func:`draw_into` drew: latents (n, C, h, w) on the CPU.

    Raises:
        ArtifactError: If a batch is missing or cannot be read.
    """
    try:
        return torch.cat([load_file(_file(folder, start))[_LATENTS] for start in _starts(request, options)])
    except (OSError, KeyError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} holds not all that was to be drawn ({error}); delete it to draw again, and where several "
            "machines draw, give a folder that all of them share"
        ) from error


def _starts(request: Request, options: SamplingOptions) -> range:
    return range(0, len(request.prompts), options.batch)


def _file(folder: Path, start: int) -> Path:
    return folder / f"from_{start:06d}.safetensors"


class _Drawing(lightning.LightningModule):
    """Draws batches, each given by the position of its first sample."""

    def __init__(self, folder: Path, model: DiffusionModel, request: Request, options: SamplingOptions) -> None:
        super().__init__()
        self._folder, self._model, self._request, self._options = folder, model, request, options
        # Registered, so that they are moved to the device of each process.
        self.parts = nn.ModuleList([model.unet, model.text_encoder])

    def predict_step(self, start: int, *_: int) -> None:
        latents = draw(self._model, self._request.part(start, self._options.batch), self._options, progress=False)
        path = _file(self._folder, start)
        partial = path.with_name(f".partial-{path.name}")
        with storage_errors(path):
            save_file({_LATENTS: latents.contiguous()}, partial)
            os.replace(partial, path)
