"""One small decorator registry, used by every plug-in kind; plug-ins of other packages come by entry points."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from rsdistill.errors import OptionError, UnknownNameError
from rsdistill.utils.options import parse_arguments

T = TypeVar("T")


class PluginWarning(UserWarning):
    """An installed package offers a plug-in that cannot be loaded."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What is known of one registered plug-in.

    Attributes:
        name: The name used in configs.
        factory: The class or function that builds it.
        summary: One line for listings.
        source: The paper or page it follows.
    """

    name: str
    factory: Callable[..., T]
    summary: str
    source: str = ""

    def options(self) -> list[str]:
        """Names of the factory's options."""
        return list(inspect.signature(self.factory).parameters)


class Registry(Generic[T]):
    """Names to factories of one kind of plug-in.

    Args:
        kind: What is registered, in the singular, for messages.
        package: Package whose import registers the built-in plug-ins; imported at first use.
        group: Entry-point group of plug-ins in other packages, loaded at first use too; ``rsdistill.`` and the
            plural of ``kind`` unless given.
    """

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        self.kind, self._package = kind, package
        self.group = group or f"rsdistill.{kind.replace(' ', '_')}s"
        self._entries: dict[str, Entry[T]] = {}
        self._complete = False

    def register(self, name: str, *, summary: str, source: str = "") -> Callable[[Any], Any]:
        """Decorator that makes a class or function known under a name.

        Raises:
            OptionError: If the name is taken by something else.
        """

        def decorate(factory: Any) -> Any:
            known = self._entries.get(name)
            if known is not None and known.factory.__qualname__ != factory.__qualname__:
                raise OptionError(f"{self.kind} '{name}' is already registered; choose another name")
            self._entries[name] = Entry(name, factory, summary, source)
            return factory

        return decorate

    def get(self, name: str) -> Entry[T]:
        """The entry of a name.

        Raises:
            UnknownNameError: If nothing is registered under it.
        """
        self._load()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return self._entries[name]

    def create(self, name: str, **options: Any) -> T:
        """Build a plug-in by name.

        Raises:
            UnknownNameError: If the name or an option is unknown.
        """
        return self.get(name).factory(**self.parse(name, options))

    def parse(self, name: str, options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Check a plug-in's options and bring them to their types, without building it.

        Args:
            name: The plug-in.
            options: Its options.
            where: Dotted path of the options, for messages.

        Raises:
            UnknownNameError: If the name or an option is unknown.
            OptionError: If a value does not fit.
        """
        return parse_arguments(self.get(name).factory, options, where or f"{self.kind}.{name}")

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """Forget at the end of the block what was registered within it, as checks and tests want."""
        self._load()
        before = dict(self._entries)
        try:
            yield
        finally:
            self._entries = before

    def names(self) -> list[str]:
        """Registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def __iter__(self) -> Iterator[Entry[T]]:
        """Iterate over the entries, sorted by name."""
        return (self.get(name) for name in self.names())

    def _load(self) -> None:
        """Import the built-in plug-ins and, once, those of other installed packages."""
        importlib.import_module(self._package)
        if self._complete:
            return
        self._complete = True
        for point in entry_points(group=self.group):
            try:
                point.load()
            except Exception as error:  # whatever another package's module does wrong, ours go on working
                reason = f"{type(error).__name__}: {_one_line(error)}"
                warnings.warn(
                    f"{self.kind} '{point.name}' ({point.value}) cannot be loaded and is left out: {reason}",
                    PluginWarning,
                    stacklevel=3,
                )


def import_plugins(names: Iterable[str]) -> None:
    """Import modules that register plug-ins.

    Args:
        names: Modules by dotted name, looked for in the current folder too, or paths of Python files.

    Raises:
        OptionError: If a module cannot be imported; the message names it.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name))
            else:
                _import_module(name)
        except Exception as error:  # an imported file can fail in any way
            kind = "" if isinstance(error, OptionError) else f"{type(error).__name__}: "
            reason = kind + _one_line(error)
            raise OptionError(f"plug-in '{name}' cannot be imported ({reason}); see --import") from error


def _import_module(name: str) -> None:
    # The command's own path lacks the current folder, where a plug-in being written usually lies.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    importlib.import_module(name)


def _import_file(path: Path) -> None:
    """Import a file under its own name, or under a longer one where that name is taken; a second time does nothing."""
    if not path.is_file():
        raise OptionError("there is no such file")
    place = str(path.resolve())
    if any(getattr(module, "__file__", None) == place for module in list(sys.modules.values())):
        return
    taken = not path.stem.isidentifier() or path.stem in sys.modules or importlib.util.find_spec(path.stem) is not None
    name = f"rsdistill_plugin_{path.stem.replace('.', '_')}" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise OptionError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
