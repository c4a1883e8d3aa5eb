"""The tabs of the page, one module each; a tab is a function that builds it in a Gradio block."""

from __future__ import annotations

from collections.abc import Callable

from apps.modalities.registry import importable
from apps.web.app_context import AppContext
from apps.web.tabs import caches, runs
from gensift.registry import import_target

BuildTab = Callable[[AppContext], None]


def tabs() -> list[tuple[str, BuildTab]]:
    """Title and builder of every tab: those that the modalities bring, then what serves all."""
    brought = sorted(
        (found.tab for found in importable() if found.tab is not None), key=lambda tab: tab.place
    )
    return [
        *((tab.title, import_target(tab.build, f"The tab {tab.title!r}")) for tab in brought),
        ("Caches", caches.build),
        ("Runs", runs.build),
    ]
