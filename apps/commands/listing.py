"""Listing what is registered, each with its options."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any

from rich.markup import escape
from rich.table import Table

from apps.console import out
from gensift.config import describe
from gensift.errors import GensiftError
from gensift.registry import Registry

_REGISTRIES = {
    "samplers": "samplers.registry:SAMPLERS",
    "rewards": "rewards.registry:REWARDS",
    "caches": "caches.registry:CACHES",
}


def registered(kind: str) -> Registry[Any] | None:
    """The registry of a kind of plugin, or None where this version has none."""
    module, _, attribute = _REGISTRIES[kind].partition(":")
    try:
        registry: Registry[Any] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return None
    return registry


def names(kind: str) -> list[str]:
    """Names registered for a kind of plugin, without importing what they stand for."""
    registry = registered(kind)
    return registry.names() if registry is not None else []


def samplers() -> list[dict[str, Any]]:
    """All samplers with their options; one that cannot be imported says why instead."""
    registry = registered("samplers")
    return [_sampler(registry, name) for name in registry.names()] if registry is not None else []


def _sampler(registry: Registry[Any], name: str) -> dict[str, Any]:
    try:
        found = registry.get(name)
    except GensiftError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "modality": found.modality,
        "summary": (found.__doc__ or "").strip().partition("\n")[0],
        "pipelines": found.pipelines,
        "default_model": found.default_model,
        "options": [
            {
                "name": row.name,
                "type": row.type,
                "default": None if row.default is MISSING else row.default,
                "help": row.help,
            }
            for row in describe(found.config_class)
        ],
    }


def show_samplers(entries: Sequence[dict[str, Any]]) -> None:
    """Print the samplers, each with a table of what `-o` sets."""
    for entry in entries:
        name = escape(entry["name"])
        if "error" in entry:
            out.print(f"[bold]{name}[/]: cannot be used. {escape(entry['error'])}")
            continue
        out.print(f"[bold]{name}[/]: {escape(entry['summary'])}")
        out.print(f"For {escape(entry['pipelines'])}; model by default: {entry['default_model']}.")
        table = Table("-o", "type", "default", "meaning", box=None, padding=(0, 2, 0, 0))
        for row in entry["options"]:
            cells = (row["name"], row["type"], _default(row["default"]), row["help"])
            table.add_row(*map(escape, cells))
        out.print(table)
        out.print()


def show_names(kind: str, found: Sequence[str]) -> None:
    """Print names one per line."""
    out.print(f"[bold]{kind}[/]")
    for name in found or ["none"]:
        out.print(f"  {name}", markup=False, highlight=False)


def _default(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "-" if value is None else str(value)
