"""Stopping a pipeline in the middle of its loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apps.web.request_queue import Task


@contextmanager
def stoppable(pipe: Any, task: Task) -> Iterator[None]:
    """Let the denoisers of `pipe` ask `task`, before each evaluation, whether they shall go on."""
    from gensift.denoising.modules import denoisers_of

    def ask(*call: Any) -> None:
        task.check()

    hooks = [module.register_forward_pre_hook(ask) for module in denoisers_of(pipe)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
