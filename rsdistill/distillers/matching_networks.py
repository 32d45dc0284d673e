"""Matching networks: small classifiers, from barely to fully trained, in whose features tiles match real chips."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

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
from rsdistill.training.trainer import StepBatches, TrainerOptions, derived_seed, fit, resolve_device, step_generator
from rsdistill.utils.options import parse_options

_DESCRIPTION, _WEIGHTS = "matching_networks.json", "matching_networks.safetensors"
_PART = 256
# Invalid pixels are given the middle of their band's range.
_INVALID = 0.0
_STAGES, _GRID, _GROUP = 3, 4, 8
_LEAST_VARIANCE = 1e-4
# A section that is the same for all classes says nothing, and must not divide by nothing.
_LEAST_SPREAD = 1e-8

NetworkKind = Literal["convnet", "convnet_bn", "resnet", "resnet_gn"]


@dataclass(frozen=True)
class NetworkOptions:
    """How the matching networks are built and trained.

    Attributes:
        count: Networks, each from a random initialisation of its own.
        min_steps: Optimiser steps of the first network.
        steps: Optimiser steps of the last network; those between are spaced by equal factors.
        size: Side in pixels that tiles and chips are resized to.
        width: Channels of the ConvNets; the residual networks begin with fewer.
        kinds: Kinds of network, which take turns.
        batch: Chips a step.
        lr: Peak learning rate.
        views: Random views of every train chip that a class's mean features are taken over.
    """

    RENAMED: ClassVar[dict[str, str]] = {"youngest": "min_steps"}

    count: Annotated[int, Field(ge=2)] = 10
    min_steps: Annotated[int, Field(ge=1)] = 20
    steps: Annotated[int, Field(ge=1)] = 400
    size: Annotated[int, Field(ge=8)] = 32
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    kinds: tuple[NetworkKind, ...] = ("convnet", "resnet", "convnet_bn", "resnet_gn")
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    views: Annotated[int, Field(ge=1)] = 4

    def step_counts(self) -> list[int]:
        """Optimiser steps of each network, the fewest first."""
        first = min(self.min_steps, self.steps)
        return [round(steps) for steps in np.geomspace(first, self.steps, self.count).tolist()]


class StagedNetwork(nn.Module):
    """A small classifier that gives the activations of each of its stages beside the logits.

    Attributes:
        channels: Channels of each stage.

    Args:
        kind: ``convnet`` normalises each channel of a chip by itself, ``convnet_bn`` over the batch; ``resnet`` and
            ``resnet_gn`` are residual networks of three stages with batch and group normalisation.
        bands: Input bands.
        classes: Number of classes.
        width: Channels of the ConvNets' blocks; the residual networks begin with half of them, or three eighths.
    """

    def __init__(self, kind: NetworkKind, bands: int, classes: int, width: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        if kind in ("convnet", "convnet_bn"):
            for stage in range(_STAGES):
                norm = nn.GroupNorm(width, width) if kind == "convnet" else nn.BatchNorm2d(width)
                entry = nn.Conv2d(bands if stage == 0 else width, width, 3, padding=1)
                stages.append(nn.Sequential(entry, norm, nn.ReLU(), nn.AvgPool2d(2)))
            self.channels = [width] * _STAGES
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(_GRID), nn.Flatten(), nn.Linear(width * _GRID**2, classes))
        else:
            first = width // 2 if kind == "resnet" else 3 * width // 8
            self.channels = [first * 2**stage for stage in range(_STAGES)]
            stages.append(nn.Sequential(nn.Conv2d(bands, first, 3, padding=1), ResidualBlock(first, first, 1, kind)))
            stages += [ResidualBlock(a, b, 2, kind) for a, b in pairwise(self.channels)]
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels[-1], classes))
        self.stages = nn.ModuleList(stages)

    def forward(self, seen: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Chips (n, B, H, W) to the activations of each stage (n, C, h, w), and logits (n, classes)."""
        maps = []
        for stage in self.stages:
            seen = stage(seen)
            maps.append(seen)
        return maps, self.head(seen)


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, entering: int, leaving: int, stride: int, kind: str) -> None:
        super().__init__()

        def normed(width: int) -> nn.Module:
            return nn.BatchNorm2d(width) if kind == "resnet" else nn.GroupNorm(width // math.gcd(width, _GROUP), width)

        self.way = nn.Sequential(
            nn.Conv2d(entering, leaving, 3, stride, 1, bias=False),
            normed(leaving),
            nn.ReLU(),
            nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False),
            normed(leaving),
        )
        same = entering == leaving and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(entering, leaving, 1, stride, bias=False)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Activations (n, C, h, w) to (n, C', h / stride, w / stride)."""
        out: torch.Tensor = (self.way(seen) + self.shortcut(seen)).relu()
        return out


def _sections(maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Of each stage the map pooled to 4x4, and the standard deviation of each channel: (n, D) each."""
    found = []
    for activations in maps:
        found.append(F.adaptive_avg_pool2d(activations, _GRID).flatten(1))
        # The root has no gradient at 0, where a channel is silent.
        found.append((activations.var((2, 3), unbiased=False) + _LEAST_VARIANCE).sqrt())
    return found


class MatchingNetworks(nn.Module):
    """Networks trained for longer and longer, with the mean features that each gives the train chips of each class.

    The features of a network are those of all its stages: the map pooled to 4x4 and the standard deviation of each
    channel. Each of these sections is scaled so that the squared distance of two feature vectors is the mean, over
    sections, of their mean square difference as a share of the section's variance between classes.

    Args:
        bands: Bands of the chips.
        classes: Number of classes.
        normalisation: Of each band.
        options: Shape and number of the networks.
    """

    def __init__(
        self, bands: BandSet, classes: int, normalisation: RangeNormalisation, options: NetworkOptions
    ) -> None:
        super().__init__()
        self.bands, self.classes, self.normalisation, self.options = bands, classes, normalisation, options
        kinds = [options.kinds[number % len(options.kinds)] for number in range(options.count)]
        self.networks = nn.ModuleList(StagedNetwork(kind, len(bands), classes, options.width) for kind in kinds)
        for number in range(options.count):
            length = sum(self.widths(number))
            self._set(number, torch.zeros(classes, length), torch.ones(length))

    def _set(self, number: int, means: torch.Tensor, scale: torch.Tensor) -> None:
        """Class means (classes, D) and scales (D,) of the features of one network."""
        self.register_buffer(f"means_{number}", means)
        self.register_buffer(f"scale_{number}", scale)

    def widths(self, number: int) -> list[int]:
        """Lengths of the sections of the features of one network."""
        network = self.networks[number]
        assert isinstance(network, StagedNetwork)
        return [length for width in network.channels for length in (width * _GRID**2, width)]

    def means(self, number: int) -> torch.Tensor:
        """Mean features (classes, D) of the train chips of each class in one network."""
        return self.get_buffer(f"means_{number}")

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.means(0).device

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Chips (n, B, H, W) in sensor units, normalised and resized to (n, B, size, size)."""
        normalised = self.normalisation.forward(images, self.bands, fill=_INVALID)
        side = (self.options.size, self.options.size)
        if min(images.shape[-2:]) >= self.options.size:
            return F.interpolate(normalised, side, mode="area")
        return F.interpolate(normalised, side, mode="bilinear")

    def see(self, number: int, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (n, D) and class logits (n, classes) that a network gives what :meth:`prepare` returned."""
        maps, logits = self.networks[number](seen)
        return torch.cat(_sections(maps), 1) * self.get_buffer(f"scale_{number}"), logits

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
            bands, options = BandSet.from_dict(told["bands"]), parse_options(NetworkOptions, told["options"])
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
        loss = F.cross_entropy(self.network(augmented(seen, step_generator(self.seed, self.global_step)))[1], labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(self.network.parameters(), self.lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def _take_means(networks: MatchingNetworks, view: SceneView, seed: int) -> None:
    """Set the mean features of each class, over random views of its train chips, and the scale of each section."""
    options, counts = networks.options, torch.bincount(torch.from_numpy(view.labels), minlength=networks.classes)
    totals = [torch.zeros_like(networks.means(number)) for number in range(options.count)]
    for start, seen, labels in _prepared(networks, view):
        for turn in range(options.views):
            shown = augmented(seen, step_generator(seed, 43, start, turn))
            for number, total in enumerate(totals):
                total.index_add_(0, labels, networks.see(number, shown)[0])
    for number, total in enumerate(totals):
        means, widths = total / (counts.to(total) * options.views).clamp_min(1)[:, None], networks.widths(number)
        scales = [(len(widths) * part.shape[1] * _spread(part)).rsqrt() for part in means.split(widths, 1)]
        scale = torch.cat([scale.expand(width) for scale, width in zip(scales, widths, strict=True)])
        networks._set(number, means * scale, scale)


def _spread(means: torch.Tensor) -> torch.Tensor:
    """Variance of mean features (classes, D) between classes, mean over features; 1 where all is one class."""
    return means.var(0).mean().clamp_min(_LEAST_SPREAD) if len(means) > 1 else means.new_ones(())


@torch.no_grad()
def _accuracy(networks: MatchingNetworks, number: int, view: SceneView) -> float:
    right = 0
    for _, seen, labels in _prepared(networks, view):
        right += int((networks.see(number, seen)[1].argmax(1) == labels).sum())
    return right / len(view)


def _prepared(networks: MatchingNetworks, view: SceneView) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """All chips of a view prepared, part by part: position of the first, chips, labels."""
    device = networks.device
    for start in range(0, len(view), _PART):
        positions = np.arange(start, min(start + _PART, len(view)))
        seen = networks.prepare(torch.from_numpy(view.images(positions)))
        yield start, seen.to(device), torch.from_numpy(view.labels[positions]).to(device)
