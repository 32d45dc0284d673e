"""The recipe: everything about how a student is trained, the same for every row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rsdistill.errors import OptionError
from rsdistill.options import parse_options


@dataclass(frozen=True)
class Recipe:
    """How students are trained. The model after the last step is judged, never the best one on the way.

    Attributes:
        student: Name of a registered student.
        student_options: Options of the student beside bands, classes and size.
        steps: Optimiser steps.
        full_steps: Optimiser steps of the row that trains on all real chips; None for ``steps``.
        batch: Images a step; a smaller set is used whole.
        lr: Largest learning rate of AdamW; falls to 0 along a cosine.
        weight_decay: Weight decay of AdamW.
        augment: Whether chips are flipped, turned by quarters, shifted and brightened at random.
        size: Side in pixels that all images are brought to; None keeps their own. All copies of the
            training and test chips at this size are held in memory.
        soft: Whether sets with soft labels get a second row, trained on these.

    Raises:
        OptionError: If a value is out of range.
    """

    student: str = "convnet"
    student_options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 600
    full_steps: int | None = None
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    augment: bool = True
    size: int | None = 32
    soft: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        least = {"steps": 1, "full_steps": 1, "batch": 1, "size": 4}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise OptionError(f"option '{name}' of the recipe is {value}; it must be {low} or more")
        if not self.lr > 0 or not self.weight_decay >= 0:
            raise OptionError(
                f"options 'lr' ({self.lr}) and 'weight_decay' ({self.weight_decay}) of the recipe must be positive"
            )

    @classmethod
    def of(cls, options: Recipe | Mapping[str, Any] | None) -> Recipe:
        """A recipe from options as they stand in a config.

        Raises:
            UnknownNameError: If an option is unknown.
            OptionError: If a value has the wrong type or is out of range.
        """
        if isinstance(options, Recipe):
            return options
        return parse_options(cls, options or {}, "recipe")

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; :meth:`of` reads them back."""
        return asdict(self)
