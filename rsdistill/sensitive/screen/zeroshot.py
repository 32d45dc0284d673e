"""A CLIP model as detector, asked by the names of the classes: it needs no training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from rsdistill.audit.pixels import resize, spread
from rsdistill.bands import NATURAL_COLOUR
from rsdistill.composites import stretch_limits
from rsdistill.datasets.base import SceneData
from rsdistill.errors import ModelError, OptionError
from rsdistill.sensitive.screen.detector import Detector, FloatArray, calibrated, excluded_mask
from rsdistill.sensitive.screen.options import ScreenOptions
from rsdistill.training import TrainerOptions, resolve_device

PROMPT = "a satellite image of {name}"
_STATISTICS_CHIPS = 512


def zero_shot_detector(
    data: SceneData,
    excluded: Collection[str],
    model: str,
    false_alarms: float,
    options: ScreenOptions | None = None,
    trainer: TrainerOptions | None = None,
) -> Detector:
    """A CLIP model that compares images with the names of all classes, its threshold set on validation chips.

    Args:
        data: The dataset with the excluded classes.
        excluded: Keys of the excluded classes.
        model: Folder or hub id; its weights must be safetensors.
        false_alarms: Share of allowed validation chips that may be held back.
        options: How many views.
        trainer: Device.

    Raises:
        ModelError: If the model cannot be loaded.
        OptionError: If the dataset has no natural colour bands.
        PolicyError: If no class is excluded, or all are.
        SplitError: If there are no allowed validation chips.

    Source: Radford et al., Learning transferable visual models from natural language supervision, 2021.
    """
    options = options or ScreenOptions()
    mask = excluded_mask(data, excluded)
    if not data.bands.has(NATURAL_COLOUR):
        raise OptionError(
            f"option screen.clip needs red, green and blue, dataset '{data.name}' has bands "
            f"{', '.join(data.bands.names)}; leave it out"
        )
    classify = _Clip(data, mask, model, resolve_device(trainer))
    return calibrated("CLIP asked by class names", classify, data, mask, options.views, false_alarms)


class _Clip:
    """Scaled cosines of an image with the texts of all classes."""

    def __init__(self, data: SceneData, excluded: NDArray[np.bool_], model: str, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        try:
            tokenizer = CLIPTokenizer.from_pretrained(model)
            loaded: Any = CLIPModel.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            first_line = str(error).splitlines()[0]
            raise ModelError(
                f"option screen.clip: CLIP model '{model}' cannot be loaded ({first_line}); name a folder or hub id "
                f"of a CLIPModel with safetensors, or leave it out"
            ) from error
        # The decorated ``to`` of transformers confuses type checkers.
        self._model: Any = nn.Module.to(loaded, device).eval()
        self._device = device
        self._bands = data.bands.composite(NATURAL_COLOUR)
        allowed = np.flatnonzero(~excluded[data.train.labels])
        reference = data.train.images(allowed[spread(len(allowed), _STATISTICS_CHIPS)])
        low, high = stretch_limits(reference, data.bands)
        self._low, self._high = (_column(torch.from_numpy(limit)) for limit in (low, high))
        self._mean, self._std = (_column(torch.tensor(v)) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        texts = tokenizer([PROMPT.format(name=c.name) for c in data.classes], padding=True, return_tensors="pt")
        with torch.inference_mode():
            self._texts = functional.normalize(_embedding(self._model.get_text_features(**texts.to(device))), dim=1)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> FloatArray:
        """Logits (n, classes) of images (n, B, H, W) in sensor units."""
        colour = torch.nan_to_num((images[:, self._bands] - self._low) / (self._high - self._low)).clamp(0.0, 1.0)
        inputs = (resize(colour, self._model.config.vision_config.image_size) - self._mean) / self._std
        found = functional.normalize(_embedding(self._model.get_image_features(inputs.to(self._device))), dim=1)
        logits = self._model.logit_scale.exp() * found @ self._texts.T
        return np.asarray(logits.double().cpu().numpy())


def _column(values: torch.Tensor) -> torch.Tensor:
    return values.float()[:, None, None]


def _embedding(output: object) -> torch.Tensor:
    """The projected embedding; transformers 5 wraps it, 4 returns it as it is."""
    found = output if isinstance(output, torch.Tensor) else getattr(output, "pooler_output", None)
    assert isinstance(found, torch.Tensor)
    return found
