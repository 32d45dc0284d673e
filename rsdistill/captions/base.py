"""Captioner: the interface of what puts chips into words, and the table of captions it makes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsdistill.classes import TEMPLATE, class_prompts
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import ArtifactError, ModelError, OptionError
from rsdistill.registry import Registry
from rsdistill.sensitive.scrub import scrub, scrub_identifying
from rsdistill.training.trainer import TrainerOptions
from rsdistill.utils.io import complete_file
from rsdistill.utils.provenance import digest

SPLITS = ("train", "val")
_FORMAT = "rsdistill-captions/1"


@dataclass(frozen=True)
class Captions:
    """What was written of each chip of a view, by the chip's position in that view.

    The table never names a file. It fits the dataset as loaded and as prepared alike, since both
    keep the order of their views.

    Attributes:
        texts: One or more sentences of each chip, (n,).
        split: The view described: ``train`` or ``val``.
        captioner: Registered name of what made them.
        model: Who speaks: hub id and revision, or digest of a model's files; empty without a model.
        prompt: What the model was asked, or the template; empty if nothing was.
        figures: Counts made on the way, such as how many captions fell back to the template.
    """

    texts: tuple[tuple[str, ...], ...]
    split: str
    captioner: str
    model: str = ""
    prompt: str = ""
    figures: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a chip without words."""
        for position, sentences in enumerate(self.texts):
            if not sentences or not all(text.strip() for text in sentences):
                raise ArtifactError(
                    f"caption of {self.split} chip {position} is empty (captioner '{self.captioner}'); "
                    "every chip needs a sentence"
                )

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.texts)

    def __getitem__(self, position: int) -> str:
        """First sentence of a chip."""
        return self.texts[position][0]

    def __iter__(self) -> Iterator[str]:
        """First sentences, in the order of the view."""
        return (sentences[0] for sentences in self.texts)

    def __repr__(self) -> str:
        """Size and origin."""
        return f"Captions({len(self)} {self.split} chips by '{self.captioner}')"

    @property
    def digest(self) -> str:
        """sha256 of the texts and of where they come from."""
        return digest([self._header(), [list(sentences) for sentences in self.texts]])

    def map(self, change: Callable[[str], str]) -> Captions:
        """The same table with every sentence changed, for scrubbing and the like.

        Raises:
            ArtifactError: If a chip is left without words.
        """
        return replace(self, texts=tuple(tuple(change(text) for text in sentences) for sentences in self.texts))

    def provenance(self) -> dict[str, Any]:
        """What a manifest says of the captions."""
        return {**self._header(), "digest": self.digest}

    def save(self, path: str | Path) -> Path:
        """Write JSON lines: a header, then one line a chip; complete or absent.

        Raises:
            StorageError: If the file cannot be written.
        """
        path = Path(path)
        head = {"format": _FORMAT, **self.provenance()}
        lines = [head, *({"chip": i, "text": list(sentences)} for i, sentences in enumerate(self.texts))]
        with complete_file(path) as partial:
            partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Captions:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: If the file is missing, damaged, altered or of another kind.
        """
        path = Path(path)
        try:
            head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)
            if head["format"] != _FORMAT or [line["chip"] for line in lines] != list(range(head["chips"])):
                raise ValueError(f"not a whole table of format {_FORMAT}")
            texts = tuple(tuple(line["text"]) for line in lines)
            captions = cls(texts, head["split"], head["captioner"], head["model"], head["prompt"], head["figures"])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ArtifactError(f"captions {path} cannot be read ({error}); make them again") from error
        if captions.digest != head.get("digest"):
            raise ArtifactError(f"captions {path} were altered: their digest differs; make them again")
        return captions

    def _header(self) -> dict[str, Any]:
        return {
            "captioner": self.captioner,
            "model": self.model,
            "prompt": self.prompt,
            "split": self.split,
            "chips": len(self),
            "figures": dict(self.figures),
        }


class Captioner(ABC):
    """Puts the chips of a view into words. Options come in ``__init__``, which does no work.

    Attributes:
        name: Registered name.
        needs_names: Whether it goes by the names of the original files, which prepared datasets do not keep.
        can_write: Whether :meth:`writer` is implemented.
    """

    name: str
    needs_names: ClassVar[bool] = False
    can_write: ClassVar[bool] = False

    def caption(
        self,
        data: SceneData,
        split: str = "train",
        folder: str | Path | None = None,
        trainer: TrainerOptions | None = None,
    ) -> Captions:
        """Describe every chip of a view.

        Args:
            data: The dataset; what is learned from chips is learned from its train view alone.
            split: ``train`` or ``val``; the test chips are described to nobody.
            folder: Where unfinished work is kept, to resume from; None keeps none.
            trainer: Devices and the like.

        Raises:
            OptionError: If ``split`` is neither train nor val.
            ModelError: If a model cannot be loaded or used.
            DatasetError: If captions do not fit the chips.
        """
        if split not in SPLITS:
            raise OptionError(f"split '{split}' is not described; choose train or val")
        view = data.train if split == "train" else data.val
        return self._caption(data, view, split, None if folder is None else Path(folder), trainer or TrainerOptions())

    def input_digest(self) -> str:
        """Digest of files that the options only name, so that a run sees when they change; empty if there are none."""
        return ""

    def writer(self, trainer: TrainerOptions | None = None) -> Callable[[str], str]:
        """A function that answers a request in plain text, to sum up descriptions.

        Raises:
            ModelError: If there is no model to answer.
        """
        raise ModelError(f"captioner '{self.name}' has no model that writes text; set captions.name to vlm")

    @abstractmethod
    def _caption(
        self, data: SceneData, view: SceneView, split: str, folder: Path | None, trainer: TrainerOptions
    ) -> Captions:
        """Captions of all chips of ``view``."""


CAPTIONERS: Registry[Captioner] = Registry("captioner", "rsdistill.captions")


def create_captioner(name: str, **options: Any) -> Captioner:
    """Build a captioner by name.

    Args:
        name: One of :func:`list_captioners`.
        **options: The captioner's own options.

    Raises:
        UnknownNameError: If the name or an option is unknown.
    """
    return CAPTIONERS.create(name, **options)


def list_captioners() -> list[str]:
    """Names of the captioners there are."""
    return CAPTIONERS.names()


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for a message: the first few, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


@CAPTIONERS.register("template", summary="the class's name in a sentence; needs no model")
class TemplateCaptioner(Captioner):
    """The readable name of a chip's class in one of the user's sentences.

    Several templates are dealt out in turn within each class, so every class gets each of them
    equally often.

    Args:
        templates: Sentences with ``{name}`` where the readable name goes; one alone may be given as text.
    """

    name = "template"

    def __init__(self, templates: str | tuple[str, ...] = TEMPLATE) -> None:
        self.templates = (templates,) if isinstance(templates, str) else tuple(templates)

    def _caption(
        self, data: SceneData, view: SceneView, split: str, folder: Path | None, trainer: TrainerOptions
    ) -> Captions:
        if not self.templates:
            raise OptionError("option templates is empty; give at least one sentence with {name} in it")
        prompts = [class_prompts(data.classes, template) for template in self.templates]
        seen = [0] * len(data.classes)
        texts = []
        for label in view.labels:
            texts.append((prompts[seen[label] % len(prompts)][label],))
            seen[label] += 1
        return Captions(tuple(texts), split, self.name, prompt=" | ".join(self.templates))


def scrub_captions(
    captions: Captions,
    labels: NDArray[np.int64],
    prompts: Sequence[str],
    terms: Iterable[str] = (),
    keep: Iterable[str] = (),
) -> Captions:
    """Captions without excluded terms, names of places, coordinates and long numbers.

    Args:
        captions: Captions of a view.
        labels: Class positions of its chips, (n,).
        prompts: Class prompts, for chips of which no word is left.
        terms: Excluded class keys and names.
        keep: Names of the classes that stay, although a term may be a part of one.

    Returns:
        The captions, whose figures tell how many sentences were ``scrubbed`` and how many chips
        were left with their class prompt (``emptied``).
    """
    terms, keep = tuple(terms), tuple(keep)
    texts, scrubbed, emptied = [], 0, 0
    for sentences, label in zip(captions.texts, labels, strict=True):
        # Terms go last: the sentences left of a place's name could form one.
        clean = [scrub(scrub_identifying(text, keep), terms, keep).strip() for text in sentences]
        scrubbed += sum(new != old.strip() for new, old in zip(clean, sentences, strict=True))
        left = tuple(text for text in clean if any(character.isalpha() for character in text))
        emptied += not left
        texts.append(left or (prompts[label],))
    return replace(captions, texts=tuple(texts), figures={**captions.figures, "scrubbed": scrubbed, "emptied": emptied})
