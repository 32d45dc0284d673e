"""One plug-in of each kind, as a package of somebody else's might hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rsdistill.bands import BandSet, get_bands
from rsdistill.classes import ClassInfo
from rsdistill.codecs import CODECS, Codec
from rsdistill.datasets import DATASETS, SceneSource
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import DISTILLERS, Distiller, FitStep
from rsdistill.evaluation.metrics import METRICS
from rsdistill.export.formats import EXPORT_FORMATS
from rsdistill.models.networks import STUDENTS


@DATASETS.register("outside-stripes", summary="stripes, upright or lying")
class Stripes(SceneSource):
    """Stripes that know nothing of sizes, bands and classes to take.

    Args:
        per_class: Chips in each class.
    """

    name = "outside-stripes"
    classes = (ClassInfo("upright", "upright"), ClassInfo("lying", "lying"))
    bands = get_bands("rgb")
    gsd = 1.0
    licence = "CC0-1.0"
    citation = "none"

    def __init__(self, per_class: int = 20) -> None:
        self.labels = np.repeat(np.arange(2), per_class)
        self.chip_ids = [f"{self.classes[label].key}-{i}" for i, label in enumerate(self.labels)]

    def read(self, index: int) -> np.ndarray:
        """One chip of shape (3, 24, 24), uint8."""
        random = np.random.default_rng(index)
        line = 127 + 120 * np.sin(np.arange(24) * random.uniform(0.5, 2.0) + random.uniform(0, 6))
        chip = np.tile(line.astype(np.uint8), (3, 24, 1))
        return chip if self.labels[index] == 0 else chip.transpose(0, 2, 1)


@CODECS.register("outside-pool", summary="block means; no AutoencoderKL")
class PoolCodec(Codec):
    """Means of blocks of pixels.

    Args:
        bands: Bands to encode.
        block: Pixels on a side of a block.
    """

    name = "outside-pool"

    def __init__(self, bands: BandSet, block: int = 4) -> None:
        self.bands, self.block = bands, block
        low, high = bands.valid_range
        self._middle, self._spread = (low + high) / 2, (high - low) / 4

    @property
    def latent_channels(self) -> int:
        """One channel a band."""
        return len(self.bands)

    @property
    def factor(self) -> int:
        """Pixels on a side of a block."""
        return self.block

    def fit(self, data, folder=None, trainer=None):
        """Nothing to learn."""
        return self

    def posterior(self, images):
        """Block means and a variance of nearly nothing."""
        mean = torch.nn.functional.avg_pool2d((images - self._middle) / self._spread, self.block)
        return mean, torch.full_like(mean, -30.0)

    def decode(self, latents):
        """Every pixel of a block takes its mean."""
        return latents.repeat_interleave(self.block, -1).repeat_interleave(self.block, -2) * self._spread + self._middle

    def to(self, device):
        """No weights to move."""
        return self

    def save_weights(self, folder: Path):
        """Nothing but the size of a block."""
        return {"block": self.block}

    @classmethod
    def load_weights(cls, folder: Path, description):
        """Read it back."""
        return cls(BandSet.from_dict(description["bands"]), description["block"])


@DISTILLERS.register("outside-mean", summary="the mean chip of each class, with noise")
class NoisyMean(Distiller):
    """Blurred averages, learned in a step of their own.

    Args:
        noise: Standard deviation of the noise, as a share of the valid range.
    """

    name = "outside-mean"

    def __init__(self, noise: float = 0.02) -> None:
        self.noise = noise

    def steps(self, ipc=None, seeds=()):
        """Average the chips of each class."""
        return [FitStep("averages", "average each class", {}, self._average, self._save, self._load)]

    def _average(self, folder):
        train, classes = self.data_.train, range(len(self.data_.classes))
        means = [train.images(np.flatnonzero(train.labels == c)).astype(np.float32).mean(axis=0) for c in classes]
        self.means_ = torch.from_numpy(np.stack(means))
        return {"averages": len(means)}

    def _save(self, folder):
        save_file({"means": self.means_}, folder / "means.safetensors")

    def _load(self, folder):
        self.means_ = load_file(folder / "means.safetensors")["means"]

    def distill(self, ipc, seed=0):
        """``ipc`` noisy copies of each class's mean chip."""
        data, random = self.data_, np.random.default_rng(seed)
        low, high = data.bands.valid_range
        label = np.repeat(np.arange(len(data.classes)), ipc)
        image = self.means_.numpy()[label]
        image = np.clip(image + random.normal(0, self.noise * (high - low), image.shape), low, high)
        return DistilledSet(
            image.astype(data.bands.dtype), label, data.classes, data.bands, data.gsd, self.manifest(ipc, seed)
        )


@STUDENTS.register("outside-linear", summary="one linear layer")
def linear(bands: int, classes: int, size: int = 32) -> nn.Module:
    """Pooled pixels to logits."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(bands * 16, classes))


@METRICS.register("outside-first", summary="share of the first class that is found")
def first_found(labels: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    """Recall of class 0."""
    return float((predictions[labels == 0] == 0).mean())


@EXPORT_FORMATS.register("outside-counts", summary="a text file of counts")
def counts(tiles: DistilledSet, folder: Path) -> list[Path]:
    """Write how many tiles each class has."""
    lines = [f"{info.key} {int((tiles.label == n).sum())}" for n, info in enumerate(tiles.classes)]
    (folder / "counts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [folder / "counts.txt"]
