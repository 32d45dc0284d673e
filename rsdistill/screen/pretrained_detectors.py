"""A CLIP model as detector, asked by the names of the classes: it needs no training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm

from rsdistill.bands import NATURAL_COLOUR
from rsdistill.datasets.base import SceneData
from rsdistill.errors import ModelError, OptionError
from rsdistill.imaging.composites import stretch_limits
from rsdistill.imaging.pixels import blocks, resize, shrink, spread, turned
from rsdistill.models.networks import imagenet_network
from rsdistill.screen.base import Detector, FloatArray, ScreenOptions, calibrated, excluded_mask
from rsdistill.training.trainer import TrainerOptions, resolve_device, step_generator

NAME = "linear probe on EfficientNet-Lite0 trained on ImageNet"

# Chips of 64 px are enlarged: the network was trained on objects of more pixels.
_SIDE = 128
# Stages whose means and spreads stand beside the last features: textures are seen early, objects late.
_STAGES = (2, 3, 4)
_BATCH = 64
_MOST_CHIPS = 20_000
# Features this many deviations off are outliers of one channel, which would rule the sum.
_CUT = 5.0
_PENALTY = 0.003
# Share of the resolution that the most blurred copy keeps.
_LEAST_DETAIL = 1 / 3
_STREAM = 51


class Probe:
    """Multinomial logistic regression on pooled features of the natural colour bands.

    Each train chip is learnt twice: as it is, and turned and blurred, since generated tiles are less sharp.

    Args:
        data: Its train view is learnt.
        reference: Chips (n, B, H, W) that set the range shown to the network, for other than 8-bit imagery.
        device: Where the network runs.
        seed: Seed of turns and blurs.
        progress: Whether to show a progress bar.

    Source: Tan and Le, EfficientNet, 2019; its Lite variant without squeeze-and-excitation.
    """

    def __init__(
        self, data: SceneData, reference: NDArray[np.generic], device: torch.device, seed: int, progress: bool = True
    ) -> None:
        from sklearn.linear_model import LogisticRegression

        self._bands = data.bands.composite(NATURAL_COLOUR)
        low, high = stretch_limits(reference, data.bands)
        self._low, self._high = (torch.from_numpy(v.astype(np.float32))[:, None, None] for v in (low, high))
        self._network, self._device = imagenet_network().to(device, memory_format=torch.channels_last), device
        features, labels = self._learnt(data, seed, progress)
        self._mean, self._std = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        self._classes = len(data.classes)
        self._probe = LogisticRegression(C=_PENALTY, max_iter=300, tol=1e-3).fit(self._scaled(features), labels)

    def __call__(self, images: torch.Tensor) -> NDArray[np.float64]:
        """Logits (n, classes) of images (n, B, H, W) in sensor units; a class without train chips is impossible."""
        logits = np.full((len(images), self._classes), -np.inf)
        logits[:, self._probe.classes_] = self._probe.predict_log_proba(self._scaled(self._features(images)))
        return logits

    def _learnt(self, data: SceneData, seed: int, progress: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features (2n, D) and labels (2n,) of the train chips and their blurred copies."""
        chosen = spread(len(data.train), _MOST_CHIPS)
        plain, worse = [], []
        with tqdm(total=len(chosen), desc="detector", unit="chip", leave=False, disable=not progress) as bar:
            for number, part in enumerate(blocks(len(chosen), _BATCH)):
                chips = shrink(data.train.images(chosen[part]), data.bands, None)
                plain.append(self._features(chips))
                worse.append(self._features(_blurred(chips, step_generator(seed, _STREAM, number))))
                bar.update(len(part))
        labels = data.train.labels[chosen]
        return np.concatenate([*plain, *worse]), np.concatenate([labels, labels])

    @torch.inference_mode()
    def _features(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Means of the last feature map, means and spreads of earlier ones, (n, 2224)."""
        colour = torch.nan_to_num((images[:, self._bands] - self._low) / (self._high - self._low)).clamp(0.0, 1.0)
        inputs = functional.interpolate(2.0 * colour - 1.0, (_SIDE, _SIDE), mode="bicubic", antialias=True)
        found = []
        for batch in inputs.split(_BATCH):
            maps = self._network.forward_intermediates(
                batch.to(self._device, memory_format=torch.channels_last), intermediates_only=True
            )
            last = self._network.bn2(self._network.conv_head(maps[-1]))
            parts = [last.mean((2, 3))]
            for stage in _STAGES:
                parts += [maps[stage].mean((2, 3)), maps[stage].std((2, 3))]
            found.append(torch.cat(parts, dim=1).cpu())
        return np.asarray(torch.cat(found).numpy(), np.float32)

    def _scaled(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.clip((features - self._mean) / self._std, -_CUT, _CUT), np.float32)


def _blurred(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images (n, B, S, S) turned by quarters and mirrored, with details lost up to a third of the resolution."""
    blurred = []
    for image, turns, mirror, detail in zip(
        images,
        torch.randint(4, (len(images),), generator=generator).tolist(),
        torch.rand(len(images), generator=generator) < 0.5,
        (torch.rand(len(images), generator=generator) * (1.0 - _LEAST_DETAIL) + _LEAST_DETAIL).tolist(),
        strict=True,
    ):
        chip = turned(image, turns, bool(mirror))[None]
        side = chip.shape[-1]
        blurred.append(resize(resize(chip, max(1, round(side * detail))), side))
    return torch.cat(blurred)


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

    Arguments and errors as of :func:`rsdistill.screen.screening.train_detector`; ``model`` is a folder or hub id, whose
    weights must be safetensors.

    Raises:
        ModelError: If the model cannot be loaded.
        OptionError: If the dataset has no natural colour bands.

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
