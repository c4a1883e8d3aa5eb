"""Which share of a denoiser's time its blocks take, and the parts of them that BAC reuses.

On a GPU by events in the stream of work: waiting for the GPU at every part would make the parts
look dearer than they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from caches.blocks import body_blocks, units_of
from gensift.errors import UnsupportedPipelineError

DENOISER, BLOCKS, UNIT = "denoiser", "blocks", "unit "


@dataclass(frozen=True, kw_only=True)
class TimeShares:
    """Shares of the denoiser's time, in [0, 1].

    Attributes:
        blocks: from the entry of the first block to the exit of the last; None where no difference
            can stand for the blocks.
        units: of the sub-blocks that BAC reuses, by name.
        units_by_kind: sums of `units` by what they are.
    """

    blocks: float | None
    units: dict[str, float]
    units_by_kind: dict[str, float]

    @property
    def all_units(self) -> float:
        """Share of all sub-blocks together."""
        return sum(self.units.values())


def measure_time_shares(denoiser: nn.Module, run: Callable[[], Any], device: str) -> TimeShares:
    """The shares during `run`, which calls the denoiser as it is, without a cache."""
    units = units_of(denoiser)
    watch = Stopwatch(device)
    with watch.around(DENOISER, [denoiser], denoiser):
        blocks = _blocks_of(denoiser)
        for unit in units:
            watch.add(UNIT + unit.name, [*unit.also, unit.module], unit.module)
        if blocks:
            watch.add(BLOCKS, blocks[:1], blocks[-1])
        run()
    seconds = watch.seconds()
    whole = seconds[DENOISER]
    # A layer that guidance skips took no time.
    shares = {unit.name: seconds.get(UNIT + unit.name, 0.0) / whole for unit in units}
    kinds: dict[str, float] = {}
    for unit in units:
        kinds[unit.kind] = kinds.get(unit.kind, 0.0) + shares[unit.name]
    return TimeShares(
        blocks=seconds[BLOCKS] / whole if blocks else None, units=shares, units_by_kind=kinds
    )


def _blocks_of(denoiser: nn.Module) -> list[nn.Module]:
    try:
        return body_blocks(denoiser)
    except UnsupportedPipelineError:
        return []


class Stopwatch:
    """Time from the entry of some modules to the exit of another, summed over calls."""

    def __init__(self, device: str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._entered: dict[str, Any] = {}
        self._spans: list[tuple[str, Any, Any]] = []
        self._handles: list[Any] = []

    @contextmanager
    def around(self, name: str, first: Sequence[nn.Module], last: nn.Module) -> Iterator[None]:
        """Watch these modules, and those that are added in the block, until its end."""
        self.add(name, first, last)
        try:
            yield
        finally:
            for handle in self._handles:
                handle.remove()

    def add(self, name: str, first: Sequence[nn.Module], last: nn.Module) -> None:
        """Watch from the entry of the first of `first` that is called to the exit of `last`."""

        def enter(*_: Any) -> None:
            if name not in self._entered:
                self._entered[name] = self._mark()

        def leave(*_: Any) -> None:
            self._spans.append((name, self._entered.pop(name), self._mark()))

        self._handles += [module.register_forward_pre_hook(enter) for module in first]
        self._handles.append(last.register_forward_hook(leave))

    def seconds(self) -> dict[str, float]:
        """Seconds by name; waits for the GPU."""
        if self._on_gpu:
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for name, start, end in self._spans:
            span = start.elapsed_time(end) / 1e3 if self._on_gpu else end - start
            found[name] = found.get(name, 0.0) + span
        return found

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
