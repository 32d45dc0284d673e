"""Captions by a vision-language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.captions.answers import Answers
from rsdistill.captions.base import CAPTIONERS, Captioner, Captions
from rsdistill.captions.english import is_english, tidy
from rsdistill.captions.pictures import PictureMaker
from rsdistill.captions.template import TEMPLATE, class_prompts
from rsdistill.captions.vlm_model import Precision, Question, VisionLanguageModel, resolve_precision
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import ModelError, OptionError
from rsdistill.provenance import digest
from rsdistill.training import TrainerOptions, predict, resolve_device

PROMPT = "Describe this satellite image of {name} in one sentence: land cover, colours, texture and layout."
_FALSE_COLOUR = (
    "The first picture is in natural colours; in the second red is near infrared, green is red, blue is green."
)


@CAPTIONERS.register("vlm", summary="a vision-language model of transformers describes each chip")
class VlmCaptioner(Captioner):
    """Any image-text-to-text model of transformers: Qwen-VL, LLaVA, BLIP-2 and their kin.

    The model answers with its likeliest words, so that the same chip, question and model give the
    same caption. Answers are kept as they come, by digest of what the model was shown: a run that
    was killed goes on where it was, and equal chips are described once. Devices share the work by
    Lightning's predict loop; the batches do not depend on how many there are.

    An answer that is empty or not English (see :func:`rsdistill.captions.english.is_english`) is
    replaced by the template.

    Args:
        model: Hub id, or folder of a saved model; must be given.
        revision: Branch, tag or commit on the hub.
        prompt: What to ask; ``{name}`` stands for the readable class name, and may be left out.
        false_colour: Whether to show near infrared, red and green as a second picture.
        facts: Whether to tell ground sampling distance, mean NDVI and share of water.
        batch: Chips asked about at a time; halved by itself where memory runs out.
        precision: Number format of the weights; ``auto`` takes half precision on an accelerator.
        max_new_tokens: Most tokens of an answer.
        max_fallback: Largest share of captions that may fall back to the template.
        template: What they fall back to.
        cache: Folder that keeps answers beyond this run; None for the run's own.

    Raises:
        OptionError: If no model is given.
    """

    name = "vlm"
    can_write = True

    def __init__(
        self,
        model: str | None = None,
        revision: str | None = None,
        prompt: str = PROMPT,
        false_colour: bool = False,
        facts: bool = False,
        batch: Annotated[int, Field(ge=1)] = 8,
        precision: Precision = "auto",
        max_new_tokens: Annotated[int, Field(ge=1)] = 64,
        max_fallback: Annotated[float, Field(ge=0, le=1)] = 0.1,
        template: str = TEMPLATE,
        cache: str | None = None,
    ) -> None:
        if not model:
            raise OptionError("captioner 'vlm' needs option model: a hub id, or the folder of a saved model")
        self.model, self.revision, self.prompt = model, revision, prompt
        self.false_colour, self.facts = false_colour, facts
        self.batch, self.precision, self.max_new_tokens = batch, precision, max_new_tokens
        self.max_fallback, self.template, self.cache = max_fallback, template, cache

    def writer(self, trainer: TrainerOptions | None = None) -> Callable[[str], str]:
        """A function that has the model answer a text without pictures, to sum up descriptions.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        device = resolve_device(trainer)
        model = VisionLanguageModel(self.model, self.revision)
        model.load(resolve_precision(self.precision, device))
        model.to(device)
        return lambda text: tidy(model.answer([Question((), text)], self.max_new_tokens)[0])

    def _caption(
        self, data: SceneData, view: SceneView, split: str, folder: Path | None, trainer: TrainerOptions
    ) -> Captions:
        fallbacks = class_prompts(data.classes, self.template)
        model = VisionLanguageModel(self.model, self.revision)
        dtype = resolve_precision(self.precision, resolve_device(trainer))
        asking = _Asking(view, PictureMaker(data, self.false_colour, self.facts), self._prompts(data))
        ways = [model.identity, str(dtype), self.max_new_tokens]
        keys = [digest([*asking.content(position), *ways]) for position in range(len(view))]
        answers = Answers(Path(self.cache).expanduser() if self.cache else folder)
        described = self._described(model, dtype, asking, keys, answers, trainer)
        texts = [tidy(described[key]) for key in keys]
        bad = [position for position, text in enumerate(texts) if not is_english(text)]
        self._check_fallbacks(bad, texts)
        for position in bad:
            texts[position] = fallbacks[view.labels[position]]
        figures = {"fallbacks": len(bad), "described": len(set(keys))}
        return Captions(tuple((text,) for text in texts), split, self.name, model.identity, self.prompt, figures)

    def _described(
        self,
        model: VisionLanguageModel,
        dtype: torch.dtype,
        asking: _Asking,
        keys: Sequence[str],
        answers: Answers,
        trainer: TrainerOptions,
    ) -> dict[str, str]:
        """Answers by key, after asking for those that are not known yet."""
        known = answers.read()
        first = {key: position for position, key in reversed(list(enumerate(keys)))}
        once = sorted(first.values())
        # Cut before leaving out what is known: a resumed run then asks in the batches of an undisturbed one.
        batches = [once[start : start + self.batch] for start in range(0, len(once), self.batch)]
        left = [[p for p in batch if keys[p] not in known] for batch in batches]
        left = [batch for batch in left if batch]
        if left:
            model.load(dtype)
            module = _Describe(model, asking, keys, answers, self.max_new_tokens)
            # The captioner has a precision of its own; the trainer's is that of training.
            predict(module, left, replace(trainer, precision="32-true"), "captions")
            known = answers.read()
        missing = sum(key not in known for key in first)
        if missing:
            raise OptionError(
                f"captions of {missing} chips were made by other processes and are not to be seen here; "
                "give a folder that all processes share"
            )
        return known

    def _prompts(self, data: SceneData) -> list[str]:
        try:
            return [self.prompt.format(name=info.name) for info in data.classes]
        except (KeyError, IndexError, ValueError) as error:
            raise OptionError(
                f"option prompt '{self.prompt}' is not valid ({error}); only {{name}} may stand in braces"
            ) from error

    def _check_fallbacks(self, bad: Sequence[int], texts: Sequence[str]) -> None:
        if len(bad) > self.max_fallback * len(texts):
            example = texts[bad[0]][:80]
            raise ModelError(
                f"model '{self.model}' gave no English caption for {len(bad)} of {len(texts)} chips (the first: "
                f"'{example}'), more than max_fallback {self.max_fallback:g}; choose another model or prompt"
            )


class _Asking:
    """The question that goes with each chip of a view."""

    def __init__(self, view: SceneView, maker: PictureMaker, prompts: Sequence[str]) -> None:
        self._view, self._maker, self._prompts = view, maker, prompts

    def content(self, position: int) -> list[str]:
        """Digest of the pictures and the words of a chip's question."""
        shown, text = self._ask(position)
        return [shown.digest, text]

    def question(self, position: int) -> Question:
        shown, text = self._ask(position)
        return Question(shown.pictures, text)

    def _ask(self, position: int) -> Any:
        chip: NDArray[Any] = self._view.images(np.array([position]))[0]
        shown = self._maker.show(chip)
        parts = [self._prompts[self._view.labels[position]]]
        if len(shown.pictures) > 1:
            parts.insert(0, _FALSE_COLOUR)
        if shown.facts:
            parts.insert(0, shown.facts)
        return shown, " ".join(parts)


class _Describe(lightning.LightningModule):
    """Asks the model about batches of chips, and keeps each batch's answers as soon as they are there."""

    def __init__(
        self, model: VisionLanguageModel, asking: _Asking, keys: Sequence[str], answers: Answers, length: int
    ) -> None:
        super().__init__()
        self.model, self._asking, self._keys, self._answers, self._length = model, asking, keys, answers, length

    def predict_step(self, batch: list[int], *_: Any) -> None:
        texts = self.model.answer([self._asking.question(position) for position in batch], self._length)
        self._answers.add({self._keys[position]: text for position, text in zip(batch, texts, strict=True)})
