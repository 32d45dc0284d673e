"""Pictures of what a denoiser draws while it trains."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.codecs.normalise import to_sensor
from rsdistill.codecs.store import LatentStore
from rsdistill.composites import stretch_limits, to_rgb
from rsdistill.diffusion.guidance import GuidanceOptions
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.errors import storage_errors
from rsdistill.training import derived_seed

if TYPE_CHECKING:
    from rsdistill.diffusion.denoising import DenoisingModule

_STREAM = 23
_FOLDER = "samples"
# Few steps: the pictures are to show what is learned, not to be tiles.
_SAMPLING = SamplingOptions(steps=12, text_scale=2.5, scheduler="dpmsolver++", guidance=GuidanceOptions(scale=0.0))
# Latents that set black and white, the same in every picture.
_STRETCH = 64
# Inches of a picture with its gap and of the names; gap as a share of a picture.
_CELL, _MARGIN, _GAP, _DPI = 0.9, 2.0, 0.06, 144


class SampleGrid:
    """Draws some tiles of each class from text alone, always from the same noise, into ``samples/step_N.png``.

    Called with the number of steps done.

    Args:
        module: The module that trains; its averaged weights draw.
        latents: The latent store, whose codec decodes.
        prompts: One prompt a class.
        log: Folder of the log.
    """

    def __init__(self, module: DenoisingModule, latents: LatentStore, prompts: Sequence[str], log: Path) -> None:
        self._module, self._codec, self._prompts, self._log = module, latents.codec, list(prompts), log
        real = self._decode(latents.read(latents.positions("train")[:_STRETCH]).mean)
        self._limits = stretch_limits(real, self._codec.bands)

    def __call__(self, step: int) -> dict[str, float]:
        """Draw after so many steps; there are no figures to log."""
        columns = self._module.options.watch.columns
        prompts = [prompt for prompt in self._prompts for _ in range(columns)]
        seeds = [derived_seed(self._module.seed, _STREAM, number) for number in range(len(prompts))]
        with self._module.looking(averaged=True):
            drawn = sample(self._module.model, prompts, seeds, options=_SAMPLING, progress=False)
        if self._module.global_rank == 0:
            pictures = to_rgb(self._decode(drawn), self._codec.bands, limits=self._limits)
            grid = pictures.reshape(len(self._prompts), columns, *pictures.shape[1:])
            _write(self._log / _FOLDER / f"step_{step:06d}.png", grid, self._prompts, f"after {step} steps")
        return {}

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> NDArray[Any]:
        size = _SAMPLING.batch
        return np.concatenate([to_sensor(self._codec.decode(part), self._codec.bands) for part in latents.split(size)])


def _write(path: Path, grid: NDArray[np.uint8], names: Sequence[str], title: str) -> None:
    """Write a grid of pictures (rows, columns, H, W, 3), complete or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows, columns, height, width = grid.shape[:4]
    gap = max(1, round(_GAP * width))
    # One mosaic: an axis for each picture would be slow to draw and uneven.
    sheet = np.full((rows, height + gap, columns, width + gap, 3), 255, np.uint8)
    sheet[:, :height, :, :width] = grid.transpose(0, 2, 1, 3, 4)
    figure = Figure(figsize=(columns * _CELL + _MARGIN, rows * _CELL + 0.4), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet.reshape(rows * (height + gap), columns * (width + gap), 3), interpolation="nearest")
    axes.set_yticks(np.arange(rows) * (height + gap) + height / 2, [textwrap.fill(name, 20) for name in names])
    axes.tick_params(length=0, labelsize=7)
    axes.set(xticks=[])
    axes.set_title(title, fontsize=9)
    axes.spines[:].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    partial = path.with_name(f".partial-{path.name}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(buffer.getvalue())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
