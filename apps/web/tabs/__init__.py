"""The tabs of the page, one module each; a tab is a function that builds it in a Gradio block."""

from __future__ import annotations

from collections.abc import Callable

from apps.web.app_context import AppContext
from apps.web.tabs import caches, pictures, policy, runs, text

TABS: tuple[tuple[str, Callable[[AppContext], None]], ...] = (
    ("Pictures", pictures.build),
    ("Text", text.build),
    ("Policy", policy.build),
    ("Caches", caches.build),
    ("Runs", runs.build),
)
"""Title and builder of every tab, in order."""
