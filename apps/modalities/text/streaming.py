"""Texts on stderr while they form: live in a terminal, one line per step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.live import Live
from rich.text import Text

from apps.console import log, say, visible

MAX_LINES = 24


class TextStep(Protocol):
    """What is read of `samplers.text.call.StepSnapshot`."""

    @property
    def index(self) -> int:
        """Of the step, from 0."""
        ...

    @property
    def texts(self) -> Sequence[str]:
        """As they stand after it, one per candidate."""
        ...


@contextmanager
def show_texts(prompt: str) -> Iterator[Callable[[TextStep], None]]:
    """Show the texts of one prompt while the block runs; yields what takes each step."""
    if not log.is_terminal:
        yield lambda step: say(f"step {step.index + 1}: {' | '.join(step.texts)}")
        return
    with Live(console=log, transient=True, auto_refresh=False) as live:

        def on_step(step: TextStep) -> None:
            lines = [f"{prompt}  (step {step.index + 1})", *step.texts[:MAX_LINES]]
            if len(step.texts) > MAX_LINES:
                lines.append(f"… {len(step.texts) - MAX_LINES} more")
            live.update(Text(visible("\n".join(lines))), refresh=True)

        yield on_step
