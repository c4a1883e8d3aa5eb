"""Texts on stderr while they form: live in a terminal, one line per step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.text import Text

from apps.console import log, say

MAX_LINES = 24


@contextmanager
def show_texts(prompt: str) -> Iterator[Callable[[Any], None]]:
    """Show the texts of one prompt while the block runs; yields what takes a `StepSnapshot`."""
    if not log.is_terminal:
        yield lambda step: say(f"step {step.index + 1}: {' | '.join(step.texts)}")
        return
    with Live(console=log, transient=True, auto_refresh=False) as live:

        def on_step(step: Any) -> None:
            lines = [f"{prompt}  (step {step.index + 1})", *step.texts[:MAX_LINES]]
            if len(step.texts) > MAX_LINES:
                lines.append(f"… {len(step.texts) - MAX_LINES} more")
            live.update(Text("\n".join(lines)), refresh=True)

        yield on_step
