"""Listing what is registered, each with its options; nothing is imported for it.

Registries hold words about their entries. Of an entry that has none, such as one of another
distribution, the summary is all that is said, until it is asked for by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from apps.console import out, write, write_heading
from apps.jobs.sampler_classes import sampler_class, summary_of
from gensift.config import describe
from gensift.conversion import plain
from gensift.errors import GensiftError
from gensift.protocols import JsonObject
from gensift.registry import Registry, import_target

if TYPE_CHECKING:
    from apps.jobs.sampler_classes import SamplerClass

_REGISTRIES = {
    "samplers": "samplers.registry:SAMPLERS",
    "rewards": "rewards.registry:REWARDS",
    "caches": "caches.registry:CACHES",
}


@dataclass(frozen=True)
class Entry:
    """A name, and what is known of it without an import."""

    name: str
    summary: str


def registered(kind: str) -> Registry[object]:
    """The registry of a kind of plugin."""
    registry: Registry[object] = import_target(_REGISTRIES[kind], f"The registry of {kind}")
    return registry


def names(kind: str) -> list[Entry]:
    """All that is registered as a kind of plugin."""
    registry = registered(kind)
    return [Entry(name, registry.about(name).get("summary", "")) for name in registry.names()]


def samplers() -> list[JsonObject]:
    """All samplers, with the options of those whose config class is known."""
    registry = registered("samplers")
    return [_described(registry, name) for name in registry.names()]


def sampler(name: str) -> JsonObject:
    """One sampler with its options, imported if it needs to be.

    Raises:
        GensiftError: there is none of this name, or it cannot be imported.
    """
    registry = registered("samplers")
    if "config" not in registry.about(name):
        return _of_class(name, sampler_class(name))
    return _described(registry, name)


def _described(registry: Registry[object], name: str) -> JsonObject:
    about = registry.about(name)
    found = registry.loaded(name)
    if "config" not in about and isinstance(found, type):
        return _of_class(name, found)
    try:
        options = _known_options(name, about.get("config"))
    except GensiftError as error:
        return {"name": name, "error": str(error)}
    words = {key: about.get(key, "") for key in ("modality", "summary", "pipelines")}
    return {"name": name, **words, "default_model": about.get("default_model"), "options": options}


def _of_class(name: str, cls: SamplerClass) -> JsonObject:
    return {
        "name": name,
        "modality": cls.modality,
        "summary": summary_of(cls),
        "pipelines": cls.pipelines,
        "default_model": cls.default_model,
        "options": _options(cls.config_class),
    }


def _options(config_class: type[object]) -> list[JsonObject]:
    return [
        {
            "name": row.name,
            "type": row.type,
            "default": None if row.default is MISSING else plain(row.default),
            "help": row.help,
        }
        for row in describe(config_class)
    ]


def _known_options(name: str, config: str | None) -> list[JsonObject]:
    return [] if config is None else _options(import_target(config, f"The config of {name!r}"))


def show_samplers(entries: Sequence[JsonObject]) -> None:
    """Print the samplers, each with a table of what `-o` sets."""
    for entry in entries:
        name = entry["name"]
        if "error" in entry:
            write_heading(name, f": cannot be used. {entry['error']}")
            continue
        write_heading(name, f": {entry['summary']}")
        if entry["pipelines"]:
            model = entry["default_model"]
            write(f"For {entry['pipelines']}; model by default: {model}.")
            out.print(_table(entry["options"]))
        else:  # of another distribution, and not imported
            write(f"Its options: generate --list-samplers {name}")
        out.print()


def _table(options: Sequence[JsonObject]) -> Table:
    table = Table("-o", "type", "default", "meaning", box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    for row in options:
        cells = (row["name"], row["type"], _default(row["default"]), row["help"])
        table.add_row(*cells)
    return table


def show_names(kind: str, found: Sequence[Entry]) -> None:
    """Print names one per line, and what is known of each."""
    write_heading(kind)
    for entry in found or [Entry("none", "")]:
        line = f"  {entry.name}: {entry.summary}" if entry.summary else f"  {entry.name}"
        write(line)


def _default(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "-" if value is None else str(value)
