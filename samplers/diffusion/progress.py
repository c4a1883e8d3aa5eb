"""How far a search has come: steps, decodes and rewards, over one call or several."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from samplers.output import Progress


class CallProgress:
    """Counts what one pipeline call has done, and reports it against what was planned."""

    def __init__(
        self, totals: Mapping[str, int], progress: Progress | None, num_processes: int
    ) -> None:
        """Give `totals` of each event, over all processes."""
        self._totals, self._progress, self._num_processes = totals, progress, num_processes
        self._done: dict[str, int] = {}

    def add(self, event: str, count: int) -> None:
        """Report `count` more rows of "denoise", "decode" or "reward"."""
        if self._progress is None:
            return
        # The others are about as far; what they have done is not asked for at every step.
        total = self._totals[event]
        done = min(total, self._done.get(event, 0) + count * self._num_processes)
        self._done[event] = done
        self._progress(event, done, total)


class RoundProgress:
    """Joins the reports of several calls into one that runs over all rounds."""

    def __init__(self, progress: Progress, totals: Mapping[str, int]) -> None:
        """Give `totals` of each event, over all rounds."""
        self._progress, self._totals = progress, totals
        self._before: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def __call__(self, event: str, done: int, total: int) -> None:
        """Take a report of one call; `total` is that call's."""
        self._now[event] = done
        done += self._before.get(event, 0)
        self._progress(event, done, self._totals.get(event, total))

    def next_round(self) -> None:
        """Count what was reported as done."""
        self._before = {
            event: self._before.get(event, 0) + self._now.get(event, 0)
            for event in self._before | self._now
        }
        self._now = {}


class SegmentTimer:
    """Seconds of the parts of a call that follow each other without a gap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._mark = time.perf_counter()

    def restart(self) -> None:
        """Begin a segment here; what went before is booked elsewhere."""
        self._mark = time.perf_counter()

    def close(self, name: str, latents: Tensor | None = None) -> None:
        """Book the time since the last mark as `name`.

        Args:
            name: of the part.
            latents: `(rows, ...)`, what the part has computed.
        """
        # CUDA runs ahead of Python: wait, or this part's time would be booked on the next one.
        if latents is not None and latents.is_cuda:
            torch.cuda.synchronize(latents.device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._mark
        self._mark = now
