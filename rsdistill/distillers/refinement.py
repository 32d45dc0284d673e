"""Refinement: latents of generated tiles are moved until class means of their features match those of the chips.

Only class means over all train chips are matched, and the start is a generated tile: no real chip is a start,
a target or a part of a tile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from torch.utils.checkpoint import checkpoint

from rsdistill.codecs.base import Codec
from rsdistill.distillers.matching_networks import MatchingNetworks, NetworkOptions
from rsdistill.errors import CodecError
from rsdistill.imaging.pixels import augmented
from rsdistill.training.trainer import StepBatches, TrainerOptions, fit, step_generator
from rsdistill.utils.options import plain
from rsdistill.utils.provenance import digest

# Pixels whose decoding is held in memory for its gradient, one band; beyond, it is done again in the backward pass.
_PIXELS = 2**19


@dataclass(frozen=True)
class RefinementOptions:
    """How the latents of the chosen candidates are refined.

    Attributes:
        steps: Optimiser steps; 0 leaves the tiles as they were generated.
        lr: Learning rate of Adam on latents of about unit variance; falls to 0 along a cosine.
        networks_per_step: Networks drawn at each step, each of which is given other views of the tiles.
        cross_entropy_weight: Weight of the cross-entropy to the tile's class, by the half of the networks that
            were trained longer.
        batch: Tiles that move at a time, whole classes, at least one; it does not change the result.
        networks: The networks in whose features classes are matched.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "observers": "networks",
        "looks": "networks_per_step",
        "label": "cross_entropy_weight",
    }

    steps: Annotated[int, Field(ge=0)] = 0
    lr: Annotated[float, Field(gt=0)] = 0.04
    networks_per_step: Annotated[int, Field(ge=1)] = 4
    cross_entropy_weight: Annotated[float, Field(ge=0)] = 0.1
    batch: Annotated[int, Field(ge=1)] = 512
    networks: NetworkOptions = NetworkOptions()


def refine(
    latents: torch.Tensor,
    labels: NDArray[np.int64],
    networks: MatchingNetworks,
    codec: Codec,
    options: RefinementOptions,
    seed: int,
    folder: Path | None = None,
    trainer: TrainerOptions | None = None,
) -> torch.Tensor:
    """Move the tiles of each class until their mean features match the class's in all networks.

    At each step some networks are drawn and given the decoded tiles, each tile turned, flipped, shifted and
    brightened at random. The loss of a class is, as a mean over these networks, the mean square of ``mean features
    of its tiles − mean features of its train chips`` as a share of the network's variance between classes, and
    ``cross_entropy_weight`` times the cross-entropy. Classes do not influence each other.

    Args:
        latents: Generated latents (n, C, h, w).
        labels: Their classes, int64 (n,).
        networks: Trained matching networks.
        codec: The codec of the latents, whose decoder the gradient passes.
        options: Steps and weights.
        seed: Seed of the order of networks and of the views.
        folder: Where checkpoints go; None keeps none.
        trainer: Device; one is used, in full precision, whatever training was in.

    Returns:
        Refined latents (n, C, h, w) on the CPU.

    Raises:
        CodecError: If the codec decodes without a gradient.

    Source: distribution matching of Zhao and Bilen, WACV 2023, on the latents of a generative model as in
    Cazenavette et al., CVPR 2023.
    """
    single = replace(trainer or TrainerOptions(), devices=1, num_nodes=1, strategy="auto", precision="32-true")
    refined = latents.detach().clone()
    parts = list(_parts(labels, options.batch))
    for number, positions in enumerate(parts):
        chosen = torch.from_numpy(positions)
        module = _Refining(latents[chosen], torch.from_numpy(labels[positions]), networks, codec, options, seed)
        place = None if folder is None else folder / f"refined_{_key(module)}"
        batches = StepBatches(lambda _: 0, 1, 1, 0)
        label = "refine" if len(parts) == 1 else f"refine {number + 1} of {len(parts)}"
        fit(module, batches, options.steps, place, single, label=label)
        refined[chosen] = module.latents.detach().cpu()
    return refined


def _parts(labels: NDArray[np.int64], batch: int) -> Iterator[NDArray[np.int64]]:
    """Positions of whole classes together, at most ``batch`` of them unless one class has more."""
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        if held and sum(map(len, held)) + len(positions) > batch:
            yield np.concatenate(held)
            held = []
        held.append(positions)
    if held:
        yield np.concatenate(held)


def _key(module: _Refining) -> str:
    """What a checkpoint must belong to: start, classes, options and seed."""
    start = hashlib.sha256(module.latents.detach().cpu().numpy().tobytes()).hexdigest()
    return digest([start, module.labels.tolist(), plain(module.options), module.seed])[:16]


class _Refining(lightning.LightningModule):
    """Latents as parameters, matched to class means."""

    def __init__(
        self,
        latents: torch.Tensor,
        labels: torch.Tensor,
        networks: MatchingNetworks,
        codec: Codec,
        options: RefinementOptions,
        seed: int,
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(latents.detach().clone())
        self.options, self.seed = options, seed
        self._classes, self._place = labels.unique(return_inverse=True)
        self.labels, self._codec = labels, codec
        # Where each tile stands when tiles are grouped by class.
        self._order = torch.argsort(torch.argsort(self._place, stable=True), stable=True)
        # In a list, so that they are neither saved nor trained.
        self._networks = [networks]

    def on_train_start(self) -> None:
        self._codec.to(self.device)
        self._networks[0].to(self.device)

    def training_step(self, _: int, __: int) -> torch.Tensor:
        networks = self._networks[0]
        decoded = self._decoded()
        if not decoded.requires_grad:
            raise CodecError("the codec decodes without a gradient, which refinement needs; set refinement.steps to 0")
        prepared = networks.prepare(decoded)
        generator = step_generator(self.seed, 50, self.global_step)
        numbers = torch.randint(networks.options.count, (self.options.networks_per_step,), generator=generator).tolist()
        losses = [self._network_loss(prepared, number, turn) for turn, number in enumerate(numbers)]
        loss = torch.stack(losses).mean()
        self.log("loss", loss / len(self._classes), prog_bar=True)
        return loss

    def _decoded(self) -> torch.Tensor:
        """The tiles (n, B, H, W) in sensor units; with a gradient, in no more memory than some of them need."""
        area = self.latents.shape[-2] * self.latents.shape[-1] * self._codec.factor**2
        parts = self.latents.split(max(1, _PIXELS // area))
        if len(parts) == 1:
            return self._codec.decode(self.latents)
        return torch.cat([checkpoint(self._codec.decode, part, use_reentrant=False) for part in parts])

    def _network_loss(self, prepared: torch.Tensor, number: int, turn: int) -> torch.Tensor:
        """Loss of all classes, summed, in the features of one network, the ``turn``-th of this step."""
        networks, place = self._networks[0], self._place
        features, logits = networks.see(number, self._views(prepared, turn))
        mean = torch.stack([features[place == which].mean(0) for which in range(len(self._classes))])
        wanted = networks.means(number)[self._classes.to(mean.device)]
        loss: torch.Tensor = (mean - wanted).square().sum()
        if number >= networks.options.count // 2:
            wrong = F.cross_entropy(logits, self.labels.to(logits.device), reduction="none")
            loss = loss + self.options.cross_entropy_weight * self._by_class(wrong)
        return loss

    def _views(self, prepared: torch.Tensor, turn: int) -> torch.Tensor:
        """A random view of each tile; what a class draws does not depend on the classes beside it."""
        parts = [
            augmented(prepared[self._place == place], step_generator(self.seed, 51, self.global_step, turn, label))
            for place, label in enumerate(self._classes.tolist())
        ]
        return torch.cat(parts)[self._order]

    def _by_class(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over classes of the mean of their tiles' values (n,)."""
        tiles = torch.bincount(self._place)[self._place].to(values.device)
        total: torch.Tensor = (values / tiles).sum()
        return total

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam([self.latents], self.options.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, self.options.steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
