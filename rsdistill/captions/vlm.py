"""Captions by a vision-language model."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.bands import FALSE_COLOUR, NATURAL_COLOUR
from rsdistill.captions.base import CAPTIONERS, Captioner, Captions
from rsdistill.captions.vlm_model import Precision, Question, VisionLanguageModel, resolve_precision
from rsdistill.classes import TEMPLATE, class_prompts
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import BandError, ModelError, OptionError, storage_errors
from rsdistill.imaging.composites import stretch_limits, to_rgb
from rsdistill.imaging.spectral_indices import available, spectral_index
from rsdistill.training.trainer import TrainerOptions, predict, resolve_device
from rsdistill.utils.provenance import digest

_SUFFIX = ".answers.jsonl"


class Answers:
    """Texts by key, in a folder that several processes write to at once.

    Each process appends whole lines to a file of its own. A process that is killed leaves at most
    one torn line at the end of its file, which readers pass over.

    Args:
        folder: Where the files lie; made at the first write. None keeps answers in memory alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._mine = folder, f"{uuid.uuid4().hex}{_SUFFIX}"
        self._known: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        """All answers there are, those of other processes included."""
        if self._folder is not None and self._folder.is_dir():
            for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
                self._known.update(_whole_lines(path))
        return dict(self._known)

    def add(self, answers: Mapping[str, str]) -> None:
        """Keep some answers; they are on disk, all of them, when this returns.

        Raises:
            StorageError: If the folder cannot be written.
        """
        self._known.update(answers)
        if self._folder is None:
            return
        lines = "".join(json.dumps({"key": key, "text": text}) + "\n" for key, text in answers.items())
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / self._mine).open("a", encoding="ascii") as stream:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())


def _whole_lines(path: Path) -> dict[str, str]:
    *whole, _torn = path.read_bytes().split(b"\n")
    found = {}
    for line in whole:
        try:
            entry = json.loads(line)
            found[str(entry["key"])] = str(entry["text"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


# A caption in another alphabet, or a string of symbols, fails this.
_LEAST_ASCII = 0.9
# Shorter phrases ("green fields") may do without any of the words below.
_LONG = 8
# The commonest words of English that no other language written in these letters uses as often.
_COMMON = frozenset(
    ["the", "of", "with", "and", "is", "are", "in", "by", "to", "it", "this", "that", "there", "from", "which", "an"]
    + ["some", "many", "several", "near", "their", "has", "have", "its", "between", "surrounded", "next"]
)


def tidy(text: str) -> str:
    """Text on one line, without spaces to spare."""
    return " ".join(text.split())


def is_english(text: str) -> bool:
    """Whether a caption can pass for English.

    It needs a letter; nine letters in ten must be a to z; and a caption of eight words or more must
    hold one of the commonest English words. The rule is coarse on purpose: it catches empty answers,
    other alphabets, other languages and noise, and needs no model.
    """
    letters = [character for character in text if character.isalpha()]
    if not letters or sum(character.isascii() for character in letters) < _LEAST_ASCII * len(letters):
        return False
    words = re.findall(r"[a-z]+", text.lower())
    return len(words) < _LONG or not _COMMON.isdisjoint(words)


# Chips that the brightness of all pictures is set by.
_SAMPLE = 256
# Zero is McFeeters' own threshold between land and open water.
_WATER = 0.0


@dataclass(frozen=True)
class Shown:
    """One chip, as a model sees it.

    Attributes:
        pictures: Natural colour, then false colour where asked for; (H, W, 3), uint8.
        facts: A line of what was measured, empty unless asked for.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    facts: str


class PictureMaker:
    """Renders chips of a dataset, all of them equally bright.

    Args:
        data: The dataset; its train view sets the brightness.
        false_colour: Whether to show near infrared, red and green as a second picture.
        facts: Whether to measure: ground sampling distance, mean NDVI, share of water.

    Raises:
        BandError: If false colour is asked for, but not all its bands are there.
    """

    def __init__(self, data: SceneData, false_colour: bool = False, facts: bool = False) -> None:
        self._bands, self._gsd, self._facts = data.bands, data.gsd, facts
        self._colours = (NATURAL_COLOUR, FALSE_COLOUR) if false_colour else (NATURAL_COLOUR,)
        if false_colour:
            try:
                for wavelength in FALSE_COLOUR:
                    data.bands.nearest(wavelength)
            except BandError as error:
                raise BandError(f"no false-colour picture can be shown: {error}; leave out false_colour") from error
        count = len(data.train)
        which = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
        sample = data.train.images(which)
        self._limits = [stretch_limits(sample, data.bands, colour) for colour in self._colours]

    def show(self, chip: NDArray[np.generic]) -> Shown:
        """One chip (B, H, W) in sensor units, as pictures and facts."""
        pictures = tuple(
            to_rgb(chip[None], self._bands, colour, limits)[0]
            for colour, limits in zip(self._colours, self._limits, strict=True)
        )
        return Shown(pictures, self._measure(chip) if self._facts else "")

    def _measure(self, chip: NDArray[np.generic]) -> str:
        facts = [f"one pixel is {self._gsd:g} m wide"]
        known = available(self._bands)
        if "ndvi" in known:
            facts.append(f"mean NDVI {_mean(spectral_index('ndvi', chip, self._bands)):.2f}")
        if "ndwi" in known:
            water = spectral_index("ndwi", chip, self._bands)
            facts.append(f"water covers {_mean(np.where(np.isnan(water), np.nan, water > _WATER)):.0%}")
        return f"Measured: {', '.join(facts)}."


def _mean(values: NDArray[np.floating]) -> float:
    """Mean of what was measured; 0 where nothing was."""
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if measured.size else 0.0


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

    An answer that is empty or not English (see :func:`rsdistill.captions.vlm.is_english`) is
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
        questions = (asking.question(position) for position in range(len(view)))
        keys = [digest([asked.pictures_digest, asked.text, *ways]) for asked in questions]
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

    def question(self, position: int) -> Question:
        chip: NDArray[Any] = self._view.images(np.array([position]))[0]
        shown = self._maker.show(chip)
        parts = [self._prompts[self._view.labels[position]]]
        if len(shown.pictures) > 1:
            parts.insert(0, _FALSE_COLOUR)
        if shown.facts:
            parts.insert(0, shown.facts)
        return Question(shown.pictures, " ".join(parts))


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
