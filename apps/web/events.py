"""How the controls of all tabs are wired."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from apps.web.app_context import AppContext
from apps.web.choosing import session_of
from gensift.protocols import JsonObject

PRIVATE: JsonObject = {"api_visibility": "private", "show_progress": "hidden"}
"""Of events that belong to the page alone and show their progress themselves."""


def stopper(context: AppContext) -> Callable[[gr.Request], None]:
    """What the button Cancel does: it stops the work of whoever presses it."""

    def stop(request: gr.Request) -> None:
        context.request_queue.cancel(session_of(request))

    return stop
