"""Features in which images are compared beside their pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from rsdistill.bands import NATURAL_COLOUR
from rsdistill.datasets.base import SceneData
from rsdistill.imaging.composites import stretch_limits
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import resize, shrink, spread
from rsdistill.models.networks import imagenet_network, uses_imagenet

FeatureKind = Literal["auto", "imagenet", "descriptors"]

_REFERENCE_CHIPS = 256
_SIDE = 64
_ORIENTATIONS = 8


class Features(ABC):
    """Turns images (n, B, H, W) in sensor units into unit vectors (n, D) whose products are cosines.

    Features are brought to mean 0 and spread 1 by those of real training chips: without that all images
    of one sensor would look alike.

    Attributes:
        name: What the features are, for reports.
    """

    name: str
    _mean: torch.Tensor
    _std: torch.Tensor

    def fit(self, data: SceneData) -> Features:
        """Take mean and spread from training chips of all classes."""
        chips = data.train.images(spread(len(data.train), _REFERENCE_CHIPS))
        raw = self.raw(shrink(chips, data.bands, None))
        self._mean, self._std = raw.mean(0), raw.std(0, correction=0).clamp_min(1e-6)
        return self

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors of shape (n, D)."""
        return functional.normalize((self.raw(images) - self._mean) / self._std, dim=1)

    @abstractmethod
    def raw(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, D) before mean and spread are removed."""


class ImageNetFeatures(Features):
    """Pooled features of an EfficientNet-Lite0 trained on ImageNet, of the natural colour bands at 64 px.

    Args:
        data: Gives the bands and, for other than 8-bit imagery, the range shown to the network.

    Source: Tan and Le, EfficientNet, 2019; its Lite variant without squeeze-and-excitation.
    """

    name = "EfficientNet-Lite0 trained on ImageNet"

    def __init__(self, data: SceneData) -> None:
        self._bands = data.bands.composite(NATURAL_COLOUR)
        low, high = stretch_limits(data.train.images(spread(len(data.train), _REFERENCE_CHIPS)), data.bands)
        self._low, self._high = (torch.from_numpy(v.astype(np.float32))[:, None, None] for v in (low, high))
        self._network = imagenet_network()
        self._network.reset_classifier(0)

    @torch.inference_mode()
    def raw(self, images: torch.Tensor) -> torch.Tensor:
        """Means over the last feature map, (n, 1280)."""
        colour = torch.nan_to_num(resize(images[:, self._bands], _SIDE))
        inputs = ((colour - self._low) / (self._high - self._low)).clamp(0.0, 1.0) * 2.0 - 1.0
        found: torch.Tensor = self._network(inputs)
        return found


class Descriptors(Features):
    """Gradient histograms at two scales with the mean of each band: no weights, any number of bands.

    Args:
        normalisation: Of the training chips.

    Source: Dalal and Triggs, Histograms of oriented gradients, 2005.
    """

    name = "gradient histograms"

    def __init__(self, normalisation: StandardNormalisation) -> None:
        self._normalisation = normalisation

    def raw(self, images: torch.Tensor) -> torch.Tensor:
        """Histograms of 8 orientations in 4x4 cells at 32 and 16 px, and 2x2 means, (n, B * 260)."""
        normal = self._normalisation(images)
        parts = [_histograms(resize(normal, side)).flatten(1) for side in (32, 16)]
        return torch.cat([*parts, resize(normal, 2).flatten(1)], dim=1)


def create_features(kind: FeatureKind, data: SceneData, normalisation: StandardNormalisation) -> Features:
    """Features of a kind, fitted to the training chips.

    Args:
        kind: ``imagenet``, ``descriptors``, or ``auto`` for the first where its packages are installed and the
            dataset has natural colour.
        data: The dataset.
        normalisation: Of its training chips.

    Raises:
        OptionError: If ``imagenet`` is asked for without its packages or natural colour bands.
    """
    if uses_imagenet(kind, "audit.features", "descriptors", data.bands, data.name):
        return ImageNetFeatures(data).fit(data)
    return Descriptors(normalisation).fit(data)


def _histograms(images: torch.Tensor) -> torch.Tensor:
    """Orientation histograms (n, B, 8, 4, 4) of images (n, B, S, S), by the strength of their gradients."""
    vertical, horizontal = torch.gradient(images, dim=(2, 3))
    strength = torch.hypot(horizontal, vertical)
    turn = torch.atan2(vertical, horizontal) / (2.0 * torch.pi) * _ORIENTATIONS
    lower = turn.floor()
    share = turn - lower
    cells = images.shape[-1] // 4
    planes = []
    for orientation in range(_ORIENTATIONS):
        at_lower = (lower.remainder(_ORIENTATIONS) == orientation) * (1.0 - share)
        at_upper = ((lower + 1).remainder(_ORIENTATIONS) == orientation) * share
        planes.append(functional.avg_pool2d(strength * (at_lower + at_upper), cells))
    return torch.stack(planes, dim=2)
