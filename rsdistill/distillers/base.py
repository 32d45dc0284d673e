"""Distiller: the interface of every method that makes a distilled set."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rsdistill.captions.base import Captions
from rsdistill.codecs.store import LatentStore
from rsdistill.datasets.base import SceneData
from rsdistill.datasets.splits import split_digest
from rsdistill.distilled import DistilledSet
from rsdistill.errors import DatasetError, ModelError
from rsdistill.registry import Registry
from rsdistill.training.trainer import TrainerOptions, derived_seed
from rsdistill.utils.options import plain
from rsdistill.utils.provenance import REAL, SYNTHETIC, library_versions

# Stream of random numbers of further candidates.
_REDRAW = 60
LATENTS, CAPTIONS = "latents", "captions"


@dataclass(frozen=True)
class FitStep:
    """One step of what a distiller learns or makes ready; a run keeps, resumes and shows each by itself.

    Attributes:
        name: Its name, also that of its folder in a run.
        summary: One line for listings.
        options: All options that its result depends on.
        fit: Learns, and returns figures worth showing. Given a folder for checkpoints, to resume from; None keeps
            none.
        save: Writes what was learned to a folder, after :attr:`fit`, in the first process alone.
        load: Reads what :attr:`save` wrote.
        needs: What it reads beside the prepared chips: ``"latents"``, ``"captions"``, names of earlier steps.
        memory: Bytes that it holds beyond what training small models takes, such as pretrained weights.
        collective: Whether all processes of a distributed run fit it together; else the first alone.
    """

    name: str
    summary: str
    options: Any
    fit: Callable[[Path | None], Mapping[str, Any]]
    save: Callable[[Path], None]
    load: Callable[[Path], None]
    needs: tuple[str, ...] = ()
    memory: float = 0.0
    collective: bool = True


@dataclass(frozen=True)
class Requirements:
    """What a distiller wants from a run.

    Attributes:
        latents: Whether :meth:`Distiller.distill` or a step reads latents.
        captions: Whether captions of the train chips make a difference.
        writer: Which option asks for the captioner's own model to sum captions up; empty where none does.
        chips_per_image: Train chips that each class must have for each image of its set.
        size_multiple: What the side of the latents must be a multiple of.
        codec_options: By name of a codec, options that follow from the distiller's own; they count where a config
            gives none of them.
        memory: Bytes that :meth:`Distiller.distill` holds beyond its tiles, such as pretrained weights.
    """

    latents: bool = False
    captions: bool = False
    writer: str = ""
    chips_per_image: int = 1
    size_multiple: int = 1
    codec_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    memory: float = 0.0


class Distiller(ABC):
    """A method with scikit-learn's habits: options in ``__init__`` with no work done there, ``fit``, ``distill``.

    A subclass needs no more than :meth:`distill`. One that learns hands its :meth:`steps` over as records.

    Attributes:
        name: Registered name.
        real_pixels: Whether the images of its sets are, or hold, pixels of real chips.
        data_: The dataset fitted to.
        latents_: Its latents, None for methods that need none.
        captions_: Captions of its train chips, None for class prompts alone.
        write_: Answers a request in plain text: the captioner's own model, to sum captions up; or None.
        trainer_: Devices and the like.
        work_: Folder whose content survives a kill, for work that :meth:`distill` resumes; None keeps nothing.
    """

    name: str
    real_pixels: ClassVar[bool] = False
    data_: SceneData
    latents_: LatentStore | None
    captions_: Captions | None
    write_: Callable[[str], str] | None
    trainer_: TrainerOptions
    work_: Path | None

    @property
    def requirements(self) -> Requirements:
        """What the distiller, with its options, wants from a run."""
        return Requirements()

    def steps(self, ipc: int | None = None, seeds: Sequence[int] = ()) -> Sequence[FitStep]:
        """The steps of the fit, in order.

        Args:
            ipc: Images per class that will be asked for; None leaves out the steps that depend on it.
            seeds: Seeds of the sets that will be asked for.
        """
        return ()

    def fit(
        self,
        data: SceneData,
        latents: LatentStore | None = None,
        folder: str | Path | None = None,
        trainer: TrainerOptions | None = None,
        captions: Captions | None = None,
    ) -> Self:
        """Learn what is needed from the train view.

        Args:
            data: The dataset.
            latents: Its latents, for methods that need them.
            folder: Where checkpoints go, to resume from; None keeps none.
            trainer: Devices and the like.
            captions: Captions of the train chips, for methods that use them.

        Raises:
            ModelError: If latents are needed and missing.
        """
        self.attach(data, latents, captions, trainer=trainer)
        if self.requirements.latents:
            self.fitted_latents()
        for step in self.steps():
            step.fit(None if folder is None else Path(folder) / step.name)
        return self

    def attach(
        self,
        data: SceneData,
        latents: LatentStore | None = None,
        captions: Captions | None = None,
        write: Callable[[str], str] | None = None,
        trainer: TrainerOptions | None = None,
        work: Path | None = None,
    ) -> Self:
        """Name the dataset and all that a run has for the method, without learning anything yet; see the attributes."""
        self.data_, self.latents_, self.captions_, self.write_ = data, latents, captions, write
        self.trainer_, self.work_ = trainer or TrainerOptions(), work
        return self

    def fitted(self) -> SceneData:
        """The dataset fitted to.

        Raises:
            ModelError: If there is none yet.
        """
        data: SceneData | None = getattr(self, "data_", None)
        if data is None:
            raise ModelError(f"method '{method_name(self)}' is not fitted; call fit(data, latents) first")
        return data

    def fitted_latents(self) -> LatentStore:
        """The latents fitted to.

        Raises:
            ModelError: If there are none yet.
        """
        self.fitted()
        if self.latents_ is None:
            raise ModelError(f"method '{method_name(self)}' needs latents; pass those of rsdistill.encode")
        return self.latents_

    def protection_gap(self) -> str:
        """Why these options may not be used on classes that a policy protects; empty where they may.

        What is made of a protected class must rest on several of its chips. The reason completes the sentence
        "the class is protected, but ...".
        """
        if self.real_pixels:
            return f"option distill.method '{method_name(self)}' hands out real chips"
        return f"option distill.method '{method_name(self)}' does not say on how many chips an image rests"

    @abstractmethod
    def distill(self, ipc: int, seed: int = 0) -> DistilledSet:
        """Make a set.

        Args:
            ipc: Images per class.
            seed: Seed; the same seed gives the same set.

        Raises:
            DatasetError: If a class has fewer train chips than ``ipc`` asks for.
        """

    def redraw(self, ipc: int, seed: int, positions: NDArray[np.int64], attempt: int) -> DistilledSet:
        """Draw further candidates for some images of the set that :meth:`distill` makes with the same arguments.

        By default they stand at the same positions of a set with another seed. A method that draws image
        by image, or for which the seed plays no part, does better to implement this itself.

        Args:
            ipc: Images per class.
            seed: Seed of the set.
            positions: Positions in the set, (n,).
            attempt: Number of the round, from 1; each brings other images.

        Returns:
            A set of n images, of the same classes as those at the positions and in the same order.

        Raises:
            DatasetError: If there is no further candidate.
        """
        return self.distill(ipc, derived_seed(seed, _REDRAW, attempt) % 2**31).subset(positions)

    def manifest(self, ipc: int, seed: int) -> dict[str, Any]:
        """What every set says of its making: method, seed, versions, dataset, licence, source type."""
        data = self.fitted()
        return {
            "method": method_name(self),
            "options": options_of(self),
            "ipc": ipc,
            "seed": seed,
            "dataset": {"name": data.name, "licence": data.licence, "citation": data.citation},
            "split": split_digest(data),
            "digital_source_type": REAL if self.real_pixels else SYNTHETIC,
            "versions": library_versions(),
            **({} if data.policy is None else {"policy": data.policy.to_dict()}),
        }


def method_name(method: Distiller) -> str:
    """Registered name of a method, or that of its class."""
    return str(getattr(method, "name", type(method).__name__))


def options_of(plugin: object) -> dict[str, Any]:
    """A plug-in's constructor options as plain JSON types, read from its attributes as scikit-learn does."""
    names = [name for name in inspect.signature(type(plugin)).parameters if hasattr(plugin, name)]
    return {name: plain(getattr(plugin, name)) for name in names}


def check_class_sizes(data: SceneData, method: Distiller, ipc: int) -> None:
    """Refuse an ``ipc`` that some class cannot meet.

    Raises:
        DatasetError: Naming every class that has too few train chips.
    """
    least = ipc * method.requirements.chips_per_image
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    short = [f"{info.key} ({n})" for info, n in zip(data.classes, counts, strict=True) if n < least]
    if short:
        raise DatasetError(
            f"these classes have fewer train chips than ipc={ipc}: {', '.join(short)}; "
            f"lower distill.ipc or leave them out with data.classes"
        )


DISTILLERS: Registry[Distiller] = Registry("distiller", "rsdistill.distillers")
DEFAULT = "dpd"
"""The method that a run uses unless told otherwise."""


def create_distiller(name: str, **options: Any) -> Distiller:
    """Build an unfitted distiller by name.

    Args:
        name: One of :func:`list_distillers`.
        **options: The method's own options.

    Raises:
        UnknownNameError: If the name or an option is unknown.
    """
    return DISTILLERS.create(name, **options)


def list_distillers() -> list[str]:
    """Names of the methods there are."""
    return DISTILLERS.names()
