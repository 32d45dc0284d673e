"""The configuration of a run: YAML and command-line options to typed groups."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field

from rsdistill.audit.calibration import AuditOptions
from rsdistill.distillers.base import DEFAULT
from rsdistill.errors import OptionError
from rsdistill.screen.base import ScreenOptions
from rsdistill.utils.io import YamlKind, read_yaml
from rsdistill.utils.options import TrainerOptions, parse_options

if TYPE_CHECKING:
    from rsdistill.distilled import DistilledSet

_PLUGIN_NAMES = ("data.name", "captions.name", "codec.name", "distill.method")
_NAME = re.compile(r"[\w][\w.-]*")
_FILE = YamlKind(
    "config", OptionError, "name a YAML file such as configs/quickstart.yaml", "groups of options such as 'data:'"
)


@dataclass(frozen=True)
class DataOptions:
    """Which dataset, cut how.

    Attributes:
        name: One of ``rsdistill list datasets``.
        root: Folder of the dataset; rendered datasets need none.
        size: Side in pixels that chips are brought to.
        bands: Names of the bands to take, or a sensor's name; None for all.
        classes: Keys of the classes to take; None for all.
        policy: YAML file that says which classes are kept out, merged or protected; None for no policy.
        scheme: Split scheme: ``stratified``, ``published`` or ``torchgeo``.
        train: Share of each class to learn from (stratified).
        val: Share of train to cut off for validation.
        seed: Seed of the split.
        options: Further options of the dataset, such as ``download``.
    """

    name: str
    root: str | None = None
    size: Annotated[int, Field(ge=8)] = 64
    bands: str | tuple[str, ...] | dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    policy: str | None = None
    scheme: str = "stratified"
    train: float | None = None
    val: float | None = None
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PluginOptions:
    """A plug-in by name, with its own options.

    Attributes:
        name: One of ``rsdistill list codecs``.
        options: Its own options.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptionOptions:
    """What puts the train chips into words.

    Attributes:
        name: One of ``rsdistill list captioners``.
        options: Its own options.
    """

    name: str = "template"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodeOptions:
    """How latents are cached.

    Attributes:
        views: Dihedral views kept of each train chip: 1, 2, 4 or 8.
        batch: Chips encoded at a time.
    """

    views: Literal[1, 2, 4, 8] = 8
    batch: Annotated[int, Field(ge=1)] = 64


@dataclass(frozen=True)
class DistillOptions:
    """Which method makes how many images.

    Attributes:
        method: One of ``rsdistill list distillers``.
        ipc: Images per class.
        seeds: Generation seeds; a set is made with each, and the first one is exported.
        options: The method's own options.
    """

    method: str = DEFAULT
    ipc: Annotated[int, Field(ge=1)] = 10
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationOptions:
    """What the set is judged by.

    Attributes:
        recipe: How students are trained, the same for every row.
        seeds: Training seeds.
        baselines: Other methods made and judged at the same IPC, with default options.
        full: Whether to train on all real chips too.
        metrics: Further metrics beside OA, AA and kappa, by the names of ``rsdistill list metrics``.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1)
    baselines: tuple[str, ...] = ("random",)
    full: bool = True
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportOptions:
    """How tiles are written.

    Attributes:
        gsd: Ground sampling distance in metres; None for the dataset's.
        epsg: Projected CRS to draw the tiles in; None for a grid that is no place on Earth.
        origin: Upper left corner of the grid in metres.
        dtype: ``uint8``, ``uint16`` or ``float32``; None for the sensor's own.
        formats: Further files to write beside tiles and index, by the names of ``rsdistill list export_formats``.
        allow_blocked: Also write tiles that the audit blocked; they are left out otherwise.
        workers: Processes that write.
    """

    RENAMED: ClassVar = {"geoparquet": "formats"}

    gsd: float | None = None
    epsg: int | None = None
    origin: tuple[float, float] = (0.0, 0.0)
    dtype: str | None = None
    formats: tuple[str, ...] = ()
    allow_blocked: bool = False
    workers: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class ReportOptions:
    """What the report shows.

    Attributes:
        show_real: Whether real chips may be seen in it.
        columns: Pictures of each class on the contact sheet.
    """

    show_real: bool = True
    columns: Annotated[int, Field(ge=1)] = 5


@dataclass(frozen=True)
class ConfigFile:
    """Where the options of a config stand, for messages; nowhere unless a file was read.

    Attributes:
        path: The file.
        lines: Line of each option by its dotted path.
        overridden: Dotted paths of the options that the command line gives instead.
    """

    path: Path = Path()
    lines: Mapping[str, int] = field(default_factory=dict)
    overridden: tuple[str, ...] = ()

    @contextmanager
    def naming_lines(self) -> Iterator[None]:
        """Begin the message of an :class:`OptionError` with file and line, where the option stands in the file."""
        try:
            yield
        except OptionError as error:
            line = self._line(error.option)
            if line is not None:
                error.args = (f"{self.path}, line {line}: {error}",)
            raise

    def _line(self, option: str) -> int | None:
        """Line of an option, or of the innermost group around it that the file has."""
        # The parts of a path end at '.' and '['.
        around = [option[: match.start()] for match in re.finditer(r"[.\[]|$", option)]
        if set(around) & set(self.overridden):
            return None
        return next((self.lines[path] for path in reversed(around) if path in self.lines), None)


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on.

    Attributes:
        name: Name of the run; its folder is ``out/name``.
        out: Folder of all runs.
        data: The dataset.
        captions: What puts the train chips into words.
        codec: The codec.
        encode: The latent store.
        distill: The method.
        screen: The search for what a policy excludes, made where it excludes anything; None for no search.
        audit: The search for leaked chips.
        evaluation: The judgement.
        export: The tiles.
        report: The report.
        trainer: Devices, precision and the like.
        file: Where its options stand, if they were read from a file; no option itself.
    """

    name: str
    data: DataOptions
    out: str = "runs"
    captions: CaptionOptions = CaptionOptions()
    codec: PluginOptions = PluginOptions("kl")
    encode: EncodeOptions = EncodeOptions()
    distill: DistillOptions = DistillOptions()
    screen: ScreenOptions | None = ScreenOptions()
    audit: AuditOptions = AuditOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    export: ExportOptions = ExportOptions()
    report: ReportOptions = ReportOptions()
    trainer: TrainerOptions = TrainerOptions()
    file: ConfigFile = field(default=ConfigFile(), init=False, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.out) / self.name


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and lay command-line options over it.

    Args:
        path: The file.
        overrides: ``--group.option`` followed by its value, or ``--group.option=value``.

    Raises:
        OptionError: If the file or an option is not valid.
        UnknownNameError: If an option is unknown; the nearest one is named.
    """
    values, file = _read(Path(path), overrides)
    return parse_config(values, Path(path).stem, file)


def parse_config(values: Mapping[str, Any], default_name: str = "run", file: ConfigFile = ConfigFile()) -> RunConfig:
    """Build a configuration from plain values, which may have been read from a file.

    Raises:
        OptionError: If a value is missing or not valid.
    """
    with file.naming_lines():
        config = parse_options(RunConfig, {"name": default_name, **values})
        if not _NAME.fullmatch(config.name):
            message = f"option name: '{config.name}' is no folder name; use letters, digits, '-', '_' and '.'"
            raise OptionError(message, "name")
    object.__setattr__(config, "file", file)
    return config


def config_for_set(
    tiles: DistilledSet,
    path: str | Path | None,
    data: str | None,
    root: str | None,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Options to audit a set that was made elsewhere.

    Args:
        tiles: The set; its size and bands are taken where nothing else is said.
        path: YAML of the run that made it, or None.
        data: Name of the dataset; that of the file unless given.
        root: Folder of the dataset; that of the file unless given.
        overrides: ``--group.option`` followed by its value, as for a run.

    Raises:
        OptionError: If no dataset is named, or an option is not valid.
    """
    given = [f"--data.{name}={value}" for name, value in (("name", data), ("root", root)) if value is not None]
    if path is not None:
        values, file = _read(Path(path), [*given, *overrides])
    else:
        taken = {"size": tiles.image.shape[-1], "bands": list(tiles.bands.names)}
        values, file = merge_overrides({"data": taken}, [*given, *overrides]), ConfigFile()
    if "name" not in (values.get("data") or {}):
        raise OptionError("the dataset that the set was made from is missing; give --data NAME, or --config YAML")
    return parse_config(values, "audit", file)


def merge_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay dotted command-line options over nested values; each value is read as YAML.

    Another dataset, codec or method than the file's leaves that one's own options behind.

    Raises:
        OptionError: If an argument is no option, or lacks its value.
    """
    merged: dict[str, Any] = deepcopy(dict(values))
    for dotted, text in _pairs(overrides):
        _set(merged, dotted, _scalar(text))
    return merged


def _read(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], ConfigFile]:
    """The values of a file with command-line options over them, and where they stand."""
    read = read_yaml(path, _FILE)
    file = ConfigFile(path, read.lines, tuple(dotted for dotted, _ in _pairs(overrides)))
    return merge_overrides(read.values, overrides), file


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Dotted name and text of each command-line option."""
    rest = list(overrides)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or len(argument) == 2:
            raise OptionError(f"argument '{argument}' is not understood; options look like --data.root FOLDER")
        dotted, equals, text = argument[2:].partition("=")
        if not equals:
            if not rest:
                raise OptionError(f"option --{dotted} needs a value; write --{dotted} VALUE")
            text = rest.pop(0)
        yield dotted, text


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *groups, last = dotted.split(".")
    place = values
    for group in groups:
        if place.get(group) is None:
            place[group] = {}
        if not isinstance(place[group], dict):
            raise OptionError(f"option --{dotted}: '{group}' is a value, not a group of options")
        place = place[group]
    if dotted in _PLUGIN_NAMES and place.get(last) != value:
        place.pop("options", None)
    place[last] = value


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
