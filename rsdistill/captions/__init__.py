"""Chips in words: captioners, and the tables of captions that they make."""

from rsdistill.captions import attributes as _attributes  # noqa: F401 - registers the captioner
from rsdistill.captions import base as _template  # noqa: F401 - registers the captioner
from rsdistill.captions import from_file as _from_file  # noqa: F401 - registers the captioner
from rsdistill.captions import vlm as _vlm  # noqa: F401 - registers the captioner
from rsdistill.captions.base import CAPTIONERS, Captioner, Captions, create_captioner, list_captioners
from rsdistill.classes import TEMPLATE, class_prompts

__all__ = [
    "CAPTIONERS",
    "TEMPLATE",
    "Captioner",
    "Captions",
    "class_prompts",
    "create_captioner",
    "list_captioners",
]
