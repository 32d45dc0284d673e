"""Distiller: the interface of every method that makes a distilled set."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rsdistill.captions.base import Captions, TemplateCaptioner
from rsdistill.codecs.store import LatentStore
from rsdistill.datasets.base import SceneData
from rsdistill.datasets.splits import split_digest
from rsdistill.diffusion.prototypes import Prototypes
from rsdistill.distilled import DistilledSet
from rsdistill.errors import DatasetError, ModelError, PolicyError
from rsdistill.registry import Registry
from rsdistill.training.trainer import TrainerOptions, derived_seed
from rsdistill.utils.options import plain
from rsdistill.utils.provenance import REAL, SYNTHETIC, library_versions

# Stream of random numbers of further candidates.
_REDRAW = 60


class Distiller(ABC):
    """A method with scikit-learn's habits: options in ``__init__``, ``fit``, then ``distill``.

    A subclass needs no more than :meth:`distill`. One that learns names its steps in
    :attr:`fit_stages` and implements :meth:`fit_stage` and :meth:`load_stage`; a run then keeps
    and resumes each of them by itself.

    Attributes:
        fit_stages: Names of the steps of the fit, in order, such as ``("teacher", "train")``; options may decide.
        pixel_stages: Those of the fit's steps that learn from the prepared chips alone, whatever the others learned.
        uses_prototypes: Whether :meth:`find_prototypes` is implemented.
        uses_latents: Whether :meth:`fit` needs a latent store.
        captioned_stages: Names of the stages, those of the fit and ``prototypes``, that captions make a difference to.
        real_pixels: Whether the images of its sets are, or hold, pixels of real chips.
        data_: The dataset fitted to.
        latents_: Its latents, None for methods that need none.
        captions_: Captions of its train chips, None for class prompts alone.
        write_: Answers a request in plain text: the captioner's own model, to sum captions up; or None.
    """

    fit_stages: tuple[str, ...] = ()
    pixel_stages: ClassVar[tuple[str, ...]] = ()
    uses_latents: ClassVar[bool] = False
    captioned_stages: ClassVar[tuple[str, ...]] = ()
    uses_prototypes: ClassVar[bool] = False
    real_pixels: ClassVar[bool] = False
    data_: SceneData
    latents_: LatentStore | None
    captions_: Captions | None
    write_: Callable[[str], str] | None

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
            latents: Its latents; needed where :attr:`uses_latents` is set.
            folder: Where checkpoints go, to resume from; None keeps none.
            trainer: Devices and the like.
            captions: Captions of the train chips, for methods that use them.

        Raises:
            ModelError: If latents are needed and missing.
        """
        self.attach(data, latents, captions)
        for stage in self.fit_stages:
            self.fit_stage(stage, None if folder is None else Path(folder) / stage, trainer)
        return self

    def attach(
        self,
        data: SceneData,
        latents: LatentStore | None = None,
        captions: Captions | None = None,
        write: Callable[[str], str] | None = None,
    ) -> Self:
        """Name the dataset, its latents and captions and who sums captions up, without learning anything yet."""
        if self.uses_latents and latents is None:
            raise ModelError(f"method '{method_name(self)}' needs latents; pass those of rsdistill.encode")
        self.data_, self.latents_, self.captions_, self.write_ = data, latents, captions, write
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

    def fit_stage(self, stage: str, folder: Path | None, trainer: TrainerOptions | None = None) -> dict[str, Any]:
        """Carry out one step of the fit; resumes from its checkpoints in the folder.

        Returns:
            Figures worth showing, such as an accuracy.
        """
        raise ModelError(f"method '{method_name(self)}' has no stage '{stage}'")

    def save_stage(self, stage: str, folder: Path) -> None:
        """Write what a step learned."""
        raise ModelError(f"method '{method_name(self)}' has no stage '{stage}'")

    def load_stage(self, stage: str, folder: Path, trainer: TrainerOptions | None = None) -> None:
        """Read what :meth:`save_stage` wrote."""
        raise ModelError(f"method '{method_name(self)}' has no stage '{stage}'")

    def needs_writer(self) -> bool:
        """Whether captions are summed up by the model that made them."""
        return False

    def latent_multiple(self) -> int:
        """What the side of the latents must be a multiple of."""
        return 1

    def codec_defaults(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a codec that follow from the method's own.

        Args:
            name: Name of the codec.
            given: What a run's config says of its options, which goes before what is returned.
        """
        return {}

    def pretrained_memory(self, stage: str) -> float:
        """Bytes of memory that pretrained weights take in a stage, for the plan of a run."""
        return 0.0

    def stage_options(self, stage: str) -> dict[str, Any]:
        """The options that the result of a stage depends on; a change of others does not redo it."""
        return options_of(self)

    def find_prototypes(self, ipc: int) -> Prototypes:
        """Prototypes for so many images per class."""
        raise ModelError(f"method '{method_name(self)}' uses no prototypes")

    def use_prototypes(self, ipc: int, table: Prototypes) -> None:
        """Take prototypes that :meth:`find_prototypes` found earlier."""
        raise ModelError(f"method '{method_name(self)}' uses no prototypes")

    def draw(self, ipc: int, seed: int, folder: Path, trainer: TrainerOptions) -> None:
        """Do ahead what :meth:`distill` with the same arguments can share out to processes; by default nothing.

        A run calls it in all processes, and :meth:`distill` in the first one alone.

        Args:
            ipc: Images per class.
            seed: Seed of the set.
            folder: A folder of this set's own that all processes see; what is done lies there, also after a kill.
            trainer: Devices and strategy.
        """
        return

    @abstractmethod
    def distill(self, ipc: int, seed: int = 0) -> DistilledSet:
        """Make a set.

        Args:
            ipc: Images per class.
            seed: Seed; the same seed gives the same set.

        Raises:
            DatasetError: If a class has fewer train chips than ``ipc``.
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


def check_class_sizes(data: SceneData, ipc: int) -> None:
    """Refuse an ``ipc`` that some class cannot meet.

    Raises:
        DatasetError: Naming every class that has too few train chips.
    """
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    short = [f"{info.key} ({n})" for info, n in zip(data.classes, counts, strict=True) if n < ipc]
    if short:
        raise DatasetError(
            f"these classes have fewer train chips than ipc={ipc}: {', '.join(short)}; "
            f"lower distill.ipc or leave them out with data.classes"
        )


DISTILLERS: Registry[Distiller] = Registry("distiller", "rsdistill.distillers")


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


SHARED = "kanonymous"
"""The kind of prototypes that protected classes may be distilled with."""


def check_protection(method: Distiller, protected: Collection[str], captioner: str = TemplateCaptioner.name) -> None:
    """Refuse a method whose options would show single chips of a protected class.

    It must make images of its own, from k-anonymous prototypes, with hard labels, and texts may
    come from the template alone. A baseline that is judged beside it and never exported need not.

    Args:
        method: The method whose set goes out.
        protected: Keys of the protected classes.
        captioner: Registered name of what captions the chips.

    Raises:
        PolicyError: Naming the class and the option at fault.
    """
    if not protected:
        return
    named = f"class '{min(protected)}' is protected by the policy" + (
        f", as {len(protected) - 1} more" if len(protected) > 1 else ""
    )
    if method.real_pixels:
        raise PolicyError(
            f"{named}, but option distill.method '{method_name(method)}' hands out real chips; choose 'dpd' with "
            f"distill.options.prototypes.kind '{SHARED}', or exclude the class"
        )
    kind = getattr(getattr(method, "prototypes", None), "kind", None)
    if kind != SHARED:
        has = f"is '{kind}'" if kind else f"does not exist for method '{method_name(method)}'"
        raise PolicyError(
            f"{named}, but option distill.options.prototypes.kind {has}; it must be '{SHARED}', so that every "
            "prototype rests on several chips"
        )
    soft = getattr(method, "soft_labels", None)
    if getattr(soft, "top", soft):
        raise PolicyError(
            f"{named}, but option distill.options.soft_labels asks for soft labels, which tell how alike its chips "
            "are to others; leave it out"
        )
    if captioner != TemplateCaptioner.name:
        raise PolicyError(
            f"{named}, but its chips would be put into words by captioner '{captioner}' (option captions); texts of "
            "protected classes come from 'template'"
        )
