"""Stopping a pipeline in the middle of its loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from apps.web.request_queue import Task
from gensift.protocols import Pipeline


@contextmanager
def stoppable(pipe: Pipeline, task: Task) -> Iterator[None]:
    """Let the denoisers of `pipe` ask `task`, before each evaluation, whether they shall go on."""
    from gensift.denoising.modules import denoisers_of

    def ask(*call: object) -> None:
        task.check()

    hooks = [module.register_forward_pre_hook(ask) for module in denoisers_of(pipe)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
