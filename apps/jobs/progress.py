"""Progress on stderr: live bars in a terminal, one line per finished prompt elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from apps.console import log, say

EVENTS = ("denoise", "scale", "decode", "reward")


class SearchProgress:
    """Bars for the prompts and, within a prompt, for each kind of work."""

    def __init__(self, bars: Progress, num_prompts: int, num_finished: int) -> None:
        self._bars = bars
        self._num_prompts = num_prompts
        self._finished = num_finished
        self._prompts = bars.add_task(
            "prompts", total=num_prompts, completed=num_finished, visible=num_prompts > 1
        )
        # Which of them a sampler reports shows when it does.
        self._events = {event: bars.add_task(event, total=None, visible=False) for event in EVENTS}

    def __call__(self, event: str, done: int, total: int) -> None:
        """Take a report of the sampler; the contract is `samplers.output.Progress`."""
        if event in self._events:
            self._bars.update(self._events[event], completed=done, total=total, visible=True)

    def finish_prompt(self, prompt: str, reward: float | None) -> None:
        """Count a prompt as finished and clear the bars for the next one."""
        self._finished += 1
        self._bars.update(self._prompts, completed=self._finished)
        for task in self._events.values():
            self._bars.reset(task, total=None)
        if self._num_prompts > 1:
            scored = "" if reward is None else f"reward {float(reward):.3f}  "
            say(f"[{self._finished}/{self._num_prompts}] {scored}{prompt}", style="dim")


@contextmanager
def show_progress(
    num_prompts: int, num_finished: int, *, is_shown: bool = True
) -> Iterator[SearchProgress]:
    """Show progress while the block runs; the bars vanish at its end."""
    with _bars("{task.description:>8}", is_shown=is_shown) as bars:
        yield SearchProgress(bars, num_prompts, num_finished)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """One bar on stderr while the block runs; yields what counts it on."""
    with _bars("{task.description}") as bars:
        task = bars.add_task(what, total=total)
        yield lambda count: bars.advance(task, count)


def _bars(description: str, *, is_shown: bool = True) -> Progress:
    return Progress(
        TextColumn(description, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=log,
        transient=True,
        disable=not (log.is_terminal and is_shown),
    )
