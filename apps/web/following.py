"""One request from start to end, as a row of frames to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from apps.web.app_context import AppContext
from apps.web.request_queue import Cancelled, Task
from apps.web.requests import Request, read_request
from gensift.errors import GensiftError
from gensift.protocols import JsonObject

MAX_MESSAGE = 600
"""Characters of an error; some quote what they were given."""


RequestT = TypeVar("RequestT")
FoundT = TypeVar("FoundT")


class View(Protocol):
    """Listens to work in the thread that does it, and says in another how far it is."""

    def snapshot(self) -> Any:
        """What there is to show now; each kind of work has a class of its own for it."""
        ...


ViewT = TypeVar("ViewT", bound=View)


@dataclass(frozen=True)
class FrameOf(Generic[FoundT]):
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
    found: FoundT | None = None
    problem: str = ""
    is_stopped: bool = False


Frame: TypeAlias = FrameOf[Any]
"""A frame of any kind of work."""


def frames(
    context: AppContext,
    session: str,
    read: Callable[[], RequestT],
    make_view: Callable[[Task], ViewT],
    search: Callable[[AppContext, RequestT, Task, ViewT], FoundT],
) -> Iterator[FrameOf[FoundT]]:
    """Work on a request; whoever stops listening stops the work.

    Args:
        context: of the app.
        session: whose request it is.
        read: returns the request, or refuses it.
        make_view: makes what listens to the work.
        search: the work, called as `search(context, request, task, view)`; returns what is found.
    """
    views: list[ViewT] = []
    ended: list[FoundT] = []

    def work(task: Task) -> FoundT:
        views.append(make_view(task))
        return search(context, request, task, views[0])

    def shown() -> object:
        return views[0].snapshot() if views else None

    try:
        request = read()
        for before in context.request_queue.follow(session, work, ended.append):
            yield FrameOf(shown(), before)
    except Cancelled:
        yield FrameOf(shown(), is_stopped=True)
    except GensiftError as error:
        yield FrameOf(shown(), problem=one_line(error))
    else:
        yield FrameOf(shown(), found=ended[0])


def reader(context: AppContext, given: JsonObject) -> Callable[[], Request]:
    """Reads a request against the limits of the app."""
    return lambda: read_request(given, context.options, context.models)


def one_line(error: GensiftError) -> str:
    """The text of an error in one line of bearable length."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"
