"""Train one student, and score it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from torch.nn import functional

from rsdistill.errors import OptionError
from rsdistill.evaluation.metrics import Scores
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import augmented, blocks, resize
from rsdistill.models.networks import STUDENTS, check_student
from rsdistill.training.trainer import StepBatches, TrainerOptions, derived_seed, fit, step_generator
from rsdistill.utils.options import parse_options


@dataclass(frozen=True)
class Recipe:
    """How students are trained. The model after the last step is judged, never the best one on the way.

    Attributes:
        student: Name of a registered student.
        student_options: Options of the student beside bands, classes and size.
        steps: Optimiser steps.
        full_steps: Optimiser steps of the row that trains on all real chips; None for ``steps``.
        batch: Images a step; a smaller set is used whole.
        lr: Largest learning rate of AdamW; falls to 0 along a cosine.
        weight_decay: Weight decay of AdamW.
        augment: Whether chips are flipped, turned by quarters, shifted and brightened at random.
        size: Side in pixels that all images are brought to; None keeps their own. All copies of the
            training and test chips at this size are held in memory.
        soft: Whether sets with soft labels get a second row, trained on these.
    """

    student: str = "convnet"
    student_options: Mapping[str, Any] = field(default_factory=dict)
    steps: Annotated[int, Field(ge=1)] = 600
    full_steps: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    augment: bool = True
    size: Annotated[int, Field(ge=4)] | None = 32
    soft: bool = True

    @classmethod
    def of(cls, options: Recipe | Mapping[str, Any] | None) -> Recipe:
        """A recipe from options as they stand in a config; errors as of :func:`parse_options`."""
        given = vars(options) if isinstance(options, Recipe) else options or {}
        parsed = parse_options(cls, given, "recipe")
        return options if isinstance(options, Recipe) else parsed

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; :meth:`of` reads them back."""
        return asdict(self)


_TEST_BATCH = 256
# Streams of random numbers that must not repeat each other.
_START, _ORDER, _AUGMENT = range(3)


class Student(nn.Module):
    """A network together with what its inputs need: it takes chips in sensor units, of any size.

    Args:
        network: From normalised chips (n, B, S, S) to logits (n, classes).
        normalisation: Of each band.
        size: Side in pixels that chips are brought to; None keeps their own.
    """

    def __init__(self, network: nn.Module, normalisation: StandardNormalisation, size: int | None) -> None:
        super().__init__()
        self.network, self._normalisation, self._size = network, normalisation, size

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Chips (n, B, H, W) in sensor units, NaN where invalid, as the network sees them."""
        images = images.float()
        return self._normalisation(images if self._size is None else resize(images, self._size))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of chips (n, B, H, W) in sensor units; NaN marks invalid pixels."""
        logits: torch.Tensor = self.network(self.prepare(images))
        return logits


def train_student(
    images: NDArray[Any] | torch.Tensor,
    labels: NDArray[np.int64],
    soft_labels: NDArray[np.float32] | None,
    recipe: Recipe,
    n_classes: int,
    seed: int,
    normalisation: StandardNormalisation,
    options: TrainerOptions | None = None,
    label: str = "student",
) -> Student:
    """Train a student on labelled images; the model after the last step is returned.

    Args:
        images: Shape (n, B, H, W) in sensor units; NaN marks invalid pixels.
        labels: Class positions, int64 (n,).
        soft_labels: Class probabilities (n, n_classes), or None. They are the target if there are any and
            ``recipe.soft`` holds: cross-entropy to them, which differs from the Kullback-Leibler
            divergence by a constant.
        recipe: How to train.
        n_classes: Number of classes that the student tells apart.
        seed: Seed of start, order and augmentation; equal seeds give equal students.
        normalisation: Of each band; the same for every student that is to be compared.
        options: Device and precision; one device is used.
        label: Name on the progress bar.

    Returns:
        The student, in evaluation mode.

    Raises:
        OptionError: If there are no images, labels do not fit them, or the chips are too small for the student.
        UnknownNameError: If the student or one of its options is unknown.
        DeviceError: If the device or precision is not available.
    """
    pixels = torch.as_tensor(np.asarray(images, np.float32) if isinstance(images, np.ndarray) else images)
    if not len(pixels) or len(pixels) != len(labels) or not 0 <= min(labels) <= max(labels) < n_classes:
        raise OptionError(f"a student needs images with one label below {n_classes} each; {len(labels)} labels given")
    check_student(recipe.student, recipe.student_options)
    side = recipe.size or min(pixels.shape[-2:])
    single = replace(options or TrainerOptions(), devices=1, num_nodes=1, strategy="auto")
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, _START))
        network = STUDENTS.create(
            recipe.student, bands=pixels.shape[1], classes=n_classes, size=side, **recipe.student_options
        )
        student = Student(network, normalisation, recipe.size)
        inputs = torch.cat([student.prepare(pixels[torch.from_numpy(part)]) for part in blocks(len(pixels))])
        targets = torch.as_tensor(soft_labels if soft_labels is not None and recipe.soft else np.asarray(labels))
        batches = StepBatches(
            lambda chosen: (inputs[chosen], targets[chosen]), len(inputs), recipe.batch, derived_seed(seed, _ORDER)
        )
        fit(_Learner(network, recipe, seed), batches, recipe.steps, options=single, label=label)
    return student.eval()


@torch.inference_mode()
def predict(student: nn.Module, images: NDArray[Any] | torch.Tensor) -> NDArray[np.int64]:
    """Class positions (n,) that a student gives images (n, B, H, W) in sensor units."""
    device = next(student.parameters()).device
    found = []
    for part in blocks(len(images), _TEST_BATCH):
        chips = images[part]
        batch = chips if isinstance(chips, torch.Tensor) else torch.from_numpy(np.asarray(chips, np.float32))
        found.append(student(batch.to(device)).argmax(1).cpu())
    return np.asarray(torch.cat(found).numpy(), np.int64)


def evaluate_student(student: nn.Module, images: NDArray[Any] | torch.Tensor, labels: NDArray[np.int64]) -> Scores:
    """Score a student on labelled images (n, B, H, W) in sensor units, block by block on its own device.

    Raises:
        OptionError: If the labels do not fit the images or there are none.
    """
    if not len(images):
        raise OptionError("there are no images to score a student on; choose a split with test chips")
    return Scores.of(labels, predict(student, images))


class _Learner(lightning.LightningModule):
    """Cross-entropy, AdamW and a cosine, as the recipe says."""

    def __init__(self, network: nn.Module, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.network, self._recipe, self._seed = network, recipe, seed

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        images, targets = batch
        if self._recipe.augment:
            images = augmented(images, step_generator(self._seed, _AUGMENT, self.global_step))
        return functional.cross_entropy(self.network(images), targets)

    def configure_optimizers(self) -> Any:
        recipe = self._recipe
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
