"""Captions by template: the class's readable name in a fixed sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsdistill.captions.base import CAPTIONERS, Captioner, Captions
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import OptionError
from rsdistill.training import TrainerOptions

TEMPLATE = "A satellite image of {name}"


def class_prompts(classes: Sequence[ClassInfo], template: str = TEMPLATE) -> list[str]:
    """One prompt a class.

    Args:
        classes: The classes.
        template: Text with ``{name}`` where the readable name goes.

    Raises:
        OptionError: If the template does not name the class.
    """
    try:
        prompts = [template.format(name=info.name) for info in classes]
    except (KeyError, IndexError, ValueError) as error:
        raise OptionError(f"prompt template '{template}' is not valid ({error}); write {{name}} once") from error
    if len(set(prompts)) < len(prompts):
        raise OptionError(f"prompt template '{template}' gives two classes the same prompt; write {{name}} in it")
    return prompts


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
