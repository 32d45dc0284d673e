"""One small decorator registry, used by every plug-in kind."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rsdistill.errors import OptionError, UnknownNameError
from rsdistill.utils.options import parse_arguments

T = TypeVar("T")


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
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self._package = kind, package
        self._entries: dict[str, Entry[T]] = {}

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
        importlib.import_module(self._package)
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

    def names(self) -> list[str]:
        """Registered names, sorted."""
        importlib.import_module(self._package)
        return sorted(self._entries)

    def __iter__(self) -> Iterator[Entry[T]]:
        """Iterate over the entries, sorted by name."""
        return (self.get(name) for name in self.names())
