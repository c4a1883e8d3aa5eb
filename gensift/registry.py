"""One registry for every kind of plugin: samplers, caches, rewards."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, overload

from gensift.errors import (
    DuplicateNameError,
    MissingExtraError,
    PluginError,
    UnknownNameError,
    nearest_hint,
)

T = TypeVar("T")
Target = TypeVar("Target")

_OWN_DISTRIBUTION = "gensift"


class Registry(Generic[T]):
    """Maps short names to objects, which may be given as lazy `"module:attribute"` strings.

    `kind` names in messages what is registered ("sampler"). `group` is the entry-point group
    through which other distributions add theirs; it is read once, at the first look-up. `check`,
    when given, must hold for every object handed out.
    """

    def __init__(
        self, kind: str, group: str, *, check: Callable[[object], bool] | None = None
    ) -> None:
        self.kind = kind
        self.group = group
        self._check = check
        self._targets: dict[str, T | str] = {}
        self._resolved: dict[str, T] = {}
        self._about: dict[str, Mapping[str, str]] = {}
        self._has_read_entry_points = False

    @overload
    def register(self, name: str) -> Callable[[Target], Target]: ...
    @overload
    def register(self, name: str, target: Target, **about: str) -> Target: ...
    def register(self, name: str, target: Any = None, **about: str) -> Any:
        """Register `target`, an object or `"module:attribute"`, as `name`.

        Without `target` it is a decorator. Registering the same target again changes nothing.
        `about` is what listings say of it without importing it, such as its `summary`.

        Raises:
            DuplicateNameError: if `name` stands for another target already.
        """
        if target is None:
            return lambda decorated: self.register(name, decorated)
        held = self._targets.get(name)
        if held is not None and not _is_same(held, target):
            raise DuplicateNameError(
                f"The {self.kind} name {name!r} is taken by {_label(held)}, so "
                f"{_label(target)} cannot have it; register it under another name."
            )
        if held is None:
            self._targets[name] = target
            self._about[name] = about
        return target

    def get(self, name: str) -> T:
        """Return what is registered as `name`, importing it if it is lazy.

        Raises:
            UnknownNameError: if nothing is; names the nearest and all that are.
            MissingExtraError: if a lazy target cannot be imported.
            PluginError: if the object fails the registry's `check`.
        """
        self._read_entry_points()
        if name not in self._targets:
            raise UnknownNameError(self._miss(name))
        if name not in self._resolved:
            self._resolved[name] = self._resolve(name, self._targets[name])
        return self._resolved[name]

    def loaded(self, name: str) -> T | None:
        """What is registered as `name` where it needs no import (any more), else None."""
        target = self._targets.get(name)
        return self._resolved.get(name) if isinstance(target, str) else target

    def names(self) -> list[str]:
        """Return all names, sorted, without importing anything."""
        self._read_entry_points()
        return sorted(self._targets)

    def own_names(self) -> list[str]:
        """Names registered so far by code alone, sorted; entry points are not read for it."""
        return sorted(self._targets)

    def about(self, name: str) -> Mapping[str, str]:
        """What was registered beside the object, read without importing it.

        Of a plugin from another distribution that is the `summary` of the distribution, as its
        entry point has no room for more.

        Raises:
            UnknownNameError: nothing is registered as `name`.
        """
        self._read_entry_points()
        if name not in self._targets:
            raise UnknownNameError(self._miss(name))
        return self._about[name]

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield `(name, object)` sorted by name; each is imported when its turn comes."""
        for name in self.names():
            yield name, self.get(name)

    def __contains__(self, name: object) -> bool:
        self._read_entry_points()
        return name in self._targets

    def _miss(self, name: str) -> str:
        known = self.names()
        listed = f"Known: {', '.join(known)}." if known else f"No {self.kind} is registered."
        return f"{name!r} is not a registered {self.kind}.{nearest_hint(name, known)} {listed}"

    def _resolve(self, name: str, target: T | str) -> T:
        found = self._import(name, target) if isinstance(target, str) else target
        if self._check is not None and not self._check(found):
            raise PluginError(
                f"The {self.kind} {name!r} is {found!r}, which is not a {self.kind}; "
                f"register an object that fulfils the {self.kind} contract."
            )
        return found

    def _import(self, name: str, target: str) -> T:
        found: T = import_target(target, f"The {self.kind} {name!r}")
        return found

    def _read_entry_points(self) -> None:
        if self._has_read_entry_points:
            return
        for entry in entry_points(group=self.group):
            is_own = entry.dist is not None and entry.dist.name == _OWN_DISTRIBUTION
            if is_own and entry.name in self._targets:
                continue
            self.register(entry.name, f"{entry.module}:{entry.attr}", **_about_distribution(entry))
        # Set last: a clash between two installed packages is reported on every look-up.
        self._has_read_entry_points = True


def import_target(target: str, what: str) -> Any:
    """The object that a lazy `"module:attribute"` names; `what` it is, for messages.

    Raises:
        MissingExtraError: it cannot be imported.
    """
    module_name, _, attribute = target.partition(":")
    try:
        if not attribute:
            raise ImportError("expected 'module:attribute'")
        return reduce(getattr, attribute.split("."), importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f"{what} is registered as {target!r}, which cannot be imported ({error}); install what "
            "is missing or correct the registration."
        ) from error


def _about_distribution(entry: EntryPoint) -> dict[str, str]:
    if entry.dist is None:
        return {}
    summary = entry.dist.metadata["Summary"] or ""
    return {"summary": f"{summary} (from {entry.dist.name})".strip()}


def _label(target: object) -> str:
    if isinstance(target, str):
        return target
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{named.__module__}:{getattr(named, '__qualname__', '')}"


def _is_same(held: object, target: object) -> bool:
    # A lazy string and the object it leads to are one target; two local objects may share a label.
    is_lazy = isinstance(held, str) or isinstance(target, str)
    return held is target or (is_lazy and _label(held) == _label(target))
