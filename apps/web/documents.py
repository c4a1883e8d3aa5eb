"""Requests and answers of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import gradio as gr

from apps.web.following import FrameOf
from gensift.protocols import JsonObject

FoundT = TypeVar("FoundT")


def documents(
    shown: Iterator[FrameOf[FoundT]],
    found: Callable[[FoundT], JsonObject],
    view: Callable[..., JsonObject] = lambda snapshot: {},
) -> Iterator[JsonObject]:
    """Frames as the API yields them; the last one holds the result, unless it was stopped.

    Args:
        shown: the frames.
        found: says what was found.
        view: says more of a snapshot of the work.

    Raises:
        gr.Error: the request is refused.
    """
    for frame in shown:
        if frame.problem:
            raise gr.Error(frame.problem, print_exception=False)
        if frame.is_stopped:
            yield {"status": "stopped"}
        elif frame.found is not None:
            yield {"status": "done", **found(frame.found)}
        elif frame.view is None:
            yield {"status": "waiting", "before": frame.before}
        else:
            yield {"status": "working", **view(frame.view)}


def rest_of(options: object) -> JsonObject:
    """The argument `options`; anything but a mapping is refused where it is read."""
    return options if isinstance(options, dict) else {"options": options}
