"""One request from start to end, as a row of frames to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apps.web.app_context import AppContext
from apps.web.request_queue import Cancelled, Task
from apps.web.requests import Request, read_request
from gensift.errors import GensiftError

MAX_MESSAGE = 600
"""Characters of an error; some quote what they were given."""


@dataclass(frozen=True)
class Frame:
    """What is known of a request at one moment; the last frame has one of the last three.

    Attributes:
        view: of the work, a snapshot; None before it began.
        before: requests that are worked on first.
        found: the result.
        problem: why there is none, in one line.
        is_stopped: whether the visitor stopped it.
    """

    view: Any = None
    before: int = 0
    found: Any = None
    problem: str = ""
    is_stopped: bool = False


Search = Callable[[AppContext, Any, Task, Any], Any]
"""Called as `search(studio, request, task, view)`; returns what is found."""


def frames(
    context: AppContext,
    session: str,
    read: Callable[[], Any],
    make_view: Callable[[Task], Any],
    search: Search,
) -> Iterator[Frame]:
    """Work on a request; whoever stops listening stops the work.

    Args:
        studio: who works.
        session: whose request it is.
        read: returns the request, or refuses it.
        make_view: of a view with a `snapshot()`.
        search: the work.
    """
    views: list[Any] = []
    ended: list[Any] = []

    def work(task: Task) -> Any:
        views.append(make_view(task))
        return search(context, request, task, views[0])

    def shown() -> Any:
        return views[0].snapshot() if views else None

    try:
        request = read()
        for before in context.request_queue.follow(session, work, ended.append):
            yield Frame(shown(), before)
    except Cancelled:
        yield Frame(shown(), is_stopped=True)
    except GensiftError as error:
        yield Frame(shown(), problem=one_line(error))
    else:
        yield Frame(shown(), found=ended[0])


def reader(context: AppContext, given: Mapping[str, Any]) -> Callable[[], Request]:
    """Reads a request against the limits of the app."""
    return lambda: read_request(given, context.options, context.models)


def one_line(error: GensiftError) -> str:
    """The text of an error in one line of bearable length."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"
