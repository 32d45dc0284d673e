"""Matching networks: small classifiers, from barely to fully trained, in whose features tiles match real chips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rsdistill.bands import BandSet
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import ArtifactError
from rsdistill.imaging.normalisation import RangeNormalisation, sample_positions
from rsdistill.imaging.pixels import augmented
from rsdistill.models.networks import convnet
from rsdistill.training.trainer import StepBatches, TrainerOptions, derived_seed, fit, resolve_device, step_generator

_DESCRIPTION, _WEIGHTS = "matching_networks.json", "matching_networks.safetensors"
_PART = 256
# Invalid pixels are given the middle of their band's range.
_INVALID = 0.0


@dataclass(frozen=True)
class NetworkOptions:
    """How the matching networks are built and trained.

    Attributes:
        count: Networks, each from a random initialisation of its own.
        min_steps: Optimiser steps of the first network.
        steps: Optimiser steps of the last network; those between are spaced by equal factors.
        size: Side in pixels that tiles and chips are resized to.
        width: Channels of every block.
        batch: Chips a step.
        lr: Peak learning rate.
        views: Random views of every train chip that a class's mean features are taken over.
    """

    RENAMED: ClassVar[dict[str, str]] = {"youngest": "min_steps"}

    count: Annotated[int, Field(ge=2)] = 10
    min_steps: Annotated[int, Field(ge=1)] = 20
    steps: Annotated[int, Field(ge=1)] = 400
    size: Annotated[int, Field(ge=8)] = 32
    width: Annotated[int, Field(ge=1)] = 64
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    views: Annotated[int, Field(ge=1)] = 4

    def step_counts(self) -> list[int]:
        """Optimiser steps of each network, the fewest first."""
        first = min(self.min_steps, self.steps)
        return [round(steps) for steps in np.geomspace(first, self.steps, self.count).tolist()]


class MatchingNetworks(nn.Module):
    """Networks trained for longer and longer, with the mean features that each gives the train chips of each class.

    Args:
        bands: Bands of the chips.
        classes: Number of classes.
        normalisation: Of each band.
        options: Shape and number of the networks.
    """

    means: torch.Tensor

    def __init__(
        self, bands: BandSet, classes: int, normalisation: RangeNormalisation, options: NetworkOptions
    ) -> None:
        super().__init__()
        self.bands, self.classes, self.normalisation, self.options = bands, classes, normalisation, options
        self.networks = nn.ModuleList(
            convnet(len(bands), classes, options.size, width=options.width) for _ in range(options.count)
        )
        blank = torch.zeros(1, len(bands), options.size, options.size)
        self.register_buffer("means", torch.zeros(options.count, classes, self.features(0, blank).shape[1]))

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Chips (n, B, H, W) in sensor units, normalised and resized to (n, B, size, size)."""
        normalised = self.normalisation.forward(images, self.bands, fill=_INVALID)
        side = (self.options.size, self.options.size)
        if min(images.shape[-2:]) >= self.options.size:
            return F.interpolate(normalised, side, mode="area")
        return F.interpolate(normalised, side, mode="bilinear")

    def features(self, number: int, seen: torch.Tensor) -> torch.Tensor:
        """Features (n, D) that a network gives what :meth:`prepare` returned."""
        features: torch.Tensor = self._part(number, slice(None, -1))(seen)
        return features

    def logits(self, number: int, features: torch.Tensor) -> torch.Tensor:
        """Class logits (n, classes) of a network from its features (n, D)."""
        logits: torch.Tensor = self._part(number, slice(-1, None))(features)
        return logits

    def spread(self, number: int) -> torch.Tensor:
        """Variance of a network's mean features between classes, mean over features; 1 where all is one class."""
        means = self.means[number]
        return means.var(0).mean().clamp_min(1e-12) if len(means) > 1 else means.new_ones(())

    def _part(self, number: int, part: slice) -> nn.Sequential:
        network = self.networks[number]
        assert isinstance(network, nn.Sequential)
        return network[part]

    def save(self, folder: str | Path) -> None:
        """Write weights, mean features and shape to a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / _WEIGHTS)
        told = {
            "bands": self.bands.to_dict(),
            "classes": self.classes,
            "normalisation": asdict(self.normalisation),
            "options": asdict(self.options),
        }
        (folder / _DESCRIPTION).write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read networks that :meth:`save` wrote.

        Raises:
            ArtifactError: If the folder holds none, or they cannot be read.
        """
        folder = Path(folder)
        try:
            told = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            ranges = RangeNormalisation(*(tuple(told["normalisation"][name]) for name in ("low", "high")))
            bands, options = BandSet.from_dict(told["bands"]), NetworkOptions(**told["options"])
            networks = cls(bands, told["classes"], ranges, options)
            networks.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"matching networks in {folder} cannot be read ({error}); train them again") from error
        return networks.eval().requires_grad_(False)


def train_matching_networks(
    data: SceneData,
    options: NetworkOptions,
    seed: int = 0,
    folder: str | Path | None = None,
    trainer: TrainerOptions | None = None,
) -> tuple[MatchingNetworks, dict[str, float]]:
    """Train the matching networks on the train chips, and take the mean features of each class.

    Args:
        data: The dataset.
        options: Number, shape and training.
        seed: Seed of weights, order and augmentation.
        folder: Where checkpoints go; None keeps none.
        trainer: Devices and the like.

    Returns:
        The networks, and where there is a validation split ``val_oa_first`` and ``val_oa_last``, the accuracies of
        the first and the last one.

    Raises:
        BandError: If a band has no valid pixel in train.
    """
    view = data.train
    normalisation = RangeNormalisation.fit(view.images(sample_positions(len(view), seed)), data.bands)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, 40))
        networks = MatchingNetworks(data.bands, len(data.classes), normalisation, options)

    def fetch(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chips = view.images(positions.numpy())
        return networks.prepare(torch.from_numpy(chips)), torch.from_numpy(view.labels[positions.numpy()])

    for number, steps in enumerate(options.step_counts()):
        batches = StepBatches(fetch, len(view), options.batch, derived_seed(seed, 41, number))
        place = None if folder is None else Path(folder) / f"network_{number}"
        module = _Training(networks.networks[number], options.lr, steps, derived_seed(seed, 42, number))
        fit(module, batches, steps, place, trainer, label=f"matching network {number + 1} of {options.count}")
    networks.zero_grad()
    networks.eval().requires_grad_(False).to(resolve_device(trainer))
    _take_means(networks, view, seed)
    figures = {}
    if len(data.val):
        figures = {"val_oa_first": _accuracy(networks, 0, data.val)}
        figures["val_oa_last"] = _accuracy(networks, options.count - 1, data.val)
    return networks, figures


class _Training(lightning.LightningModule):
    """Cross-entropy on views of normalised chips."""

    def __init__(self, network: nn.Module, lr: float, steps: int, seed: int) -> None:
        super().__init__()
        self.network, self.lr, self.steps, self.seed = network, lr, steps, seed

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        seen, labels = batch
        loss = F.cross_entropy(self.network(augmented(seen, step_generator(self.seed, self.global_step))), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(self.network.parameters(), self.lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def _take_means(networks: MatchingNetworks, view: SceneView, seed: int) -> None:
    """Set the mean features of each class, over random views of its train chips."""
    means = torch.zeros_like(networks.means)
    for start, seen, labels in _prepared(networks, view):
        for turn in range(networks.options.views):
            shown = augmented(seen, step_generator(seed, 43, start, turn))
            for number in range(networks.options.count):
                means[number].index_add_(0, labels, networks.features(number, shown))
    counts = torch.bincount(torch.from_numpy(view.labels), minlength=networks.classes).to(means)
    networks.means.copy_(means / (counts * networks.options.views).clamp_min(1)[:, None])


@torch.no_grad()
def _accuracy(networks: MatchingNetworks, number: int, view: SceneView) -> float:
    right = 0
    for _, seen, labels in _prepared(networks, view):
        right += int((networks.logits(number, networks.features(number, seen)).argmax(1) == labels).sum())
    return right / len(view)


def _prepared(networks: MatchingNetworks, view: SceneView) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """All chips of a view prepared, part by part: position of the first, chips, labels."""
    device = networks.means.device
    for start in range(0, len(view), _PART):
        positions = np.arange(start, min(start + _PART, len(view)))
        seen = networks.prepare(torch.from_numpy(view.images(positions)))
        yield start, seen.to(device), torch.from_numpy(view.labels[positions]).to(device)
