"""What a config asks for: its plug-ins built and every option checked, before a pixel is read or a folder made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from rsdistill.bands import get_bands
from rsdistill.captions import CAPTIONERS
from rsdistill.captions.base import TemplateCaptioner
from rsdistill.codecs import CODECS, create_codec
from rsdistill.datasets import DATASETS, SceneData, SplitOptions
from rsdistill.datasets.loading import check_data_options, load_scenes, resolve_policy
from rsdistill.distillers import DISTILLERS, Distiller
from rsdistill.errors import OptionError, PolicyError, UnknownNameError
from rsdistill.evaluation import Recipe
from rsdistill.evaluation.metrics import METRICS, further_metrics
from rsdistill.export import GeoRef
from rsdistill.export.formats import EXPORT_FORMATS, check_formats
from rsdistill.models.networks import STUDENTS, check_student
from rsdistill.pipeline.config import RunConfig
from rsdistill.registry import Registry
from rsdistill.sensitive.policy import Policy
from rsdistill.sensitive.resolved import ResolvedPolicy
from rsdistill.sensitive.scrub import find_terms
from rsdistill.training.trainer import resolve_device
from rsdistill.utils.options import parse_options

# What names plug-ins in a config, one or a list.
_NAMED: dict[str, Registry[Any]] = {
    "data.name": DATASETS,
    "codec.name": CODECS,
    "captions.name": CAPTIONERS,
    "distill.method": DISTILLERS,
    "evaluation.baselines": DISTILLERS,
    "export.formats": EXPORT_FORMATS,
}


class Setup:
    """The plug-ins and the policy of a run.

    Args:
        config: The configuration.

    Attributes:
        config: The same, with the codec's options that follow from the distiller's.
        distiller: The method, not fitted.
        captioner: What puts the train chips into words.
        baselines: Methods that are judged beside it, by name.
        recipe: How students are trained.
        georef: Where tiles are drawn.
        trainer: Devices, precision and the like.

    Raises:
        OptionError: If an option is unknown or does not fit.
        PolicyError: If the policy does not allow what is asked for.
        DeviceError: If the device asked for is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        with config.file.naming_lines():
            self._build(config)

    def _build(self, config: RunConfig) -> None:
        for option, registry in _NAMED.items():
            group, name = option.split(".")
            _check_names(registry, getattr(getattr(config, group), name), option)
        self._policy = None if config.data.policy is None else Policy.load(config.data.policy)
        self.distiller: Distiller = create(DISTILLERS, config.distill.method, config.distill.options, "distill.options")
        self.config = config = replace(config, codec=replace(config.codec, options=self._codec_options(config)))
        self.trainer = config.trainer
        resolve_device(self.trainer)
        _ = self.data_options, self.split
        CODECS.parse(config.codec.name, config.codec.options, "codec.options")
        self.georef = GeoRef(config.export.gsd, config.export.epsg, config.export.origin)
        recipe = "evaluation.recipe"
        self.recipe = parse_options(Recipe, config.evaluation.recipe, recipe)
        _check_names(STUDENTS, self.recipe.student, f"{recipe}.student")
        check_student(self.recipe.student, self.recipe.student_options, f"{recipe}.student_options")
        self.captioner = create(CAPTIONERS, config.captions.name, config.captions.options, "captions.options")
        needs = self.distiller.requirements
        if needs.writer and not self.captioner.can_write:
            raise OptionError(
                f"option {needs.writer}: captioner '{config.captions.name}' has no model that writes text; set "
                "captions.name to vlm, or change that option",
                needs.writer.split()[0],
            )
        self.baselines: dict[str, Distiller] = {
            name: create(DISTILLERS, name, {}, "") for name in config.evaluation.baselines
        }
        if self.uses_latents:
            self._check_size()
        check_formats(config.export.formats)
        further_metrics(config.evaluation.metrics)
        if self.policy is not None:
            check_protection(self.distiller, self.policy.protected, config.captions.name)
            _check_texts(self.policy, config.distill.options, "distill.options")
            _check_texts(self.policy, config.captions.options, "captions.options")

    @cached_property
    def data_options(self) -> dict[str, Any]:
        """Options of the dataset."""
        data = self.config.data
        given = {"root": data.root, "size": data.size, "bands": data.bands, "classes": data.classes}
        return check_data_options(data.name, given, data.options)

    @cached_property
    def split(self) -> SplitOptions:
        """How the dataset is split."""
        data = self.config.data
        return SplitOptions(data.scheme, data.train, data.val, data.seed)

    def load_data(self) -> SceneData:
        """The dataset as it is at its root, not yet prepared."""
        return load_scenes(self.config.data.name, self.data_options, self.split, self._policy)

    def load_everything(self) -> SceneData:
        """All classes of the dataset, excluded ones too; for the screen alone."""
        # data.classes may not name an excluded one.
        given = {name: value for name, value in self.data_options.items() if name != "classes"}
        return load_scenes(self.config.data.name, given, self.split)

    @cached_property
    def policy(self) -> ResolvedPolicy | None:
        """What the policy makes of the dataset's classes; None without a policy.

        The run folder does not keep the names of what was left out, so the dataset is asked for them.
        """
        if self._policy is None:
            return None
        return resolve_policy(self._policy, self.config.data.name, self.data_options)

    @property
    def policy_digest(self) -> str | None:
        """Digest of what the policy says; where it lies does not count."""
        return None if self._policy is None else self._policy.digest

    @property
    def terms(self) -> tuple[str, ...]:
        """Words that no text of the run may hold."""
        return () if self.policy is None else self.policy.terms

    def kept_names(self, data: SceneData) -> tuple[str, ...]:
        """Names of classes that texts may hold."""
        return tuple(info.name for info in data.classes) if self.policy is None else self.policy.kept_names

    @property
    def uses_captions(self) -> bool:
        """Whether captions are made: of use to the method, and more than the class's name."""
        told = self.config.captions
        return self.distiller.requirements.captions and (told.name != TemplateCaptioner.name or bool(told.options))

    @property
    def uses_latents(self) -> bool:
        """Whether any method of the run reads latents."""
        return any(method.requirements.latents for method in (self.distiller, *self.baselines.values()))

    @property
    def screens(self) -> bool:
        """Whether tiles are screened for excluded classes."""
        return self.config.screen is not None and self.policy is not None and bool(self.policy.excluded)

    def plugins(self, kind: str) -> list[object]:
        """The classes and functions behind the plug-ins of a kind that the run uses.

        Args:
            kind: ``dataset``, ``codec``, ``captioner``, ``distiller``, ``student``, ``metrics``, ``formats`` or
                ``baselines``.
        """
        config = self.config
        entries: dict[str, tuple[Registry[Any], Sequence[str]]] = {
            "dataset": (DATASETS, [config.data.name]),
            "codec": (CODECS, [config.codec.name]),
            "captioner": (CAPTIONERS, [config.captions.name]),
            "distiller": (DISTILLERS, [config.distill.method]),
            "student": (STUDENTS, [self.recipe.student]),
            "metrics": (METRICS, config.evaluation.metrics),
            "formats": (EXPORT_FORMATS, config.export.formats),
            "baselines": (DISTILLERS, config.evaluation.baselines),
        }
        registry, names = entries[kind]
        return [registry.get(name).factory for name in names]

    def _codec_options(self, config: RunConfig) -> dict[str, Any]:
        """The codec's options: those given, and those that follow from the distiller where none of them is given."""
        implied = self.distiller.requirements.codec_options.get(config.codec.name, {})
        given = config.codec.options
        return dict(given) if set(implied) & set(given) else {**implied, **given}

    def _check_size(self) -> None:
        """Refuse a size of chips that codec or method cannot halve as often as they need."""
        # The factor does not depend on the bands, which only the dataset knows.
        factor = create_codec(self.config.codec.name, get_bands("rgb"), **self.config.codec.options).factor
        size, least = self.config.data.size, factor * self.distiller.requirements.size_multiple
        if size % least:
            raise OptionError(
                f"option data.size {size}: codec and method need a multiple of {least}; "
                f"choose {max(least, round(size / least) * least)}",
                "data.size",
            )


def _check_names(registry: Registry[Any], given: str | Sequence[str], option: str) -> None:
    for name in [given] if isinstance(given, str) else given:
        try:
            registry.get(name)
        except UnknownNameError as error:
            error.option = option
            raise


def create(registry: Any, name: str, options: Mapping[str, Any], where: str) -> Any:
    """A plug-in by name, its options checked under their dotted name in the config."""
    return registry.get(name).factory(**registry.parse(name, options, where))


def check_protection(method: Distiller, protected: Collection[str], captioner: str = TemplateCaptioner.name) -> None:
    """Refuse a method whose options would show single chips of a protected class.

    Texts may come from the template alone. A baseline that is judged beside it and never exported need not keep to it.

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
    gap = method.protection_gap()
    if gap:
        raise PolicyError(f"{named}, but {gap}; change that, or exclude the class")
    if captioner != TemplateCaptioner.name:
        raise PolicyError(
            f"{named}, but its chips would be put into words by captioner '{captioner}' (option captions); texts of "
            f"protected classes come from '{TemplateCaptioner.name}'"
        )


def _check_texts(policy: ResolvedPolicy, options: Any, where: str) -> None:
    """Refuse options, such as a prompt, that say a word that the policy keeps out of all texts."""
    if isinstance(options, str):
        found = find_terms(options, policy.terms, policy.kept_names)
        if found:
            raise PolicyError(f"option {where} says '{found[0]}', which the policy lets no text say; reword it")
    elif isinstance(options, Mapping):
        for name, value in options.items():
            _check_texts(policy, value, f"{where}.{name}")
