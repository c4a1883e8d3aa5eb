"""Reusing the outputs of single sub-blocks, each by its own calibrated schedule.

Source: BAC (arXiv 2506.13456). What is kept is a sub-block's output before gate and residual, so
that both stay those of the present step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from caches.bac.config import BACConfig
from caches.bac.sums import SummedBlock, summed_blocks
from caches.bac.units import Outputs, UnitSlot
from caches.blocks import PlacedUnit, units_of
from caches.cache import Cache, DenoiserCache
from caches.call import Batch, CachedCall
from caches.row_store import RowStore
from gensift.denoising.modules import is_compiled_whole
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.protocols import Pipeline


class BAC(Cache):
    """Answers for sub-blocks whose schedule reuses them with what they returned before."""

    name = "bac"
    config: BACConfig

    def __init__(self, config: BACConfig) -> None:
        """Make a cache for one pipeline at a time."""
        super().__init__(config)
        self.plan = config

    def check(self, pipe: Pipeline) -> None:
        """See `Cache.check`."""
        super().check(pipe)
        _refuse_whole_graphs(pipe)

    def begin(self) -> None:
        """Fit the schedules to the number of steps of this run."""
        _refuse_whole_graphs(self._pipe)
        self.plan = self.config.with_steps(self.clock.num_steps)

    def make_part(self, module: torch.nn.Module) -> DenoiserCache:
        """See `Cache.make_part`."""
        return _CachedUnits(self, module)


def _refuse_whole_graphs(pipe: Pipeline) -> None:
    if is_compiled_whole(pipe):
        raise UnsupportedPipelineError(
            "bac has other sub-blocks run at every step, and a denoiser that is compiled as a "
            "whole would be compiled anew for each; compile its blocks instead "
            "(`compile_repeated_blocks`), or use ertacache."
        )


class _KeptUnit:
    """What is kept of one sub-block: one store for each tensor that it returns."""

    def __init__(self, unit: PlacedUnit) -> None:
        self.stores: list[RowStore] = []
        self._is_padded = unit.is_padded

    def put(self, call: CachedCall, outputs: Outputs) -> None:
        while len(self.stores) < len(outputs):
            self.stores.append(RowStore(is_padded=self._is_padded))
        for store, output in zip(self.stores, outputs, strict=False):
            store.put(call.context, call.rows.rows, output)

    def get(self, call: CachedCall) -> Outputs | None:
        if len(self.stores) == 1:  # mostly, and asked for at every step
            single = self.stores[0].get(call.context, call.rows.rows)
            return None if single is None else (single,)
        found = [store.get(call.context, call.rows.rows) for store in self.stores]
        outputs = tuple(output for output in found if output is not None)
        return outputs if outputs and len(outputs) == len(found) else None


@dataclass(frozen=True)
class _Turn:
    """What a schedule says of one step.

    Attributes:
        reused: sub-blocks that are given what they returned before.
        lasting: sub-blocks whose outputs the next step reuses.
    """

    reused: tuple[tuple[UnitSlot, _KeptUnit], ...] = ()
    lasting: tuple[tuple[UnitSlot, _KeptUnit], ...] = ()


class _CachedUnits(DenoiserCache):
    """The sub-blocks of one denoiser."""

    def __init__(self, cache: BAC, module: torch.nn.Module) -> None:
        super().__init__(cache.tally)
        self._cache = cache
        self._module = module
        placed = {unit.name: unit for unit in units_of(module)}
        missing = [name for name in cache.config.updates_of if name not in placed]
        if missing:
            raise ConfigError(
                f"{type(module).__name__} has no sub-block {missing[0]!r} (and "
                f"{len(missing) - 1} more of this profile); calibrate for this model."
            )
        self._slots: list[UnitSlot] = []
        self._sums: list[SummedBlock] = []
        try:
            for name in cache.config.updates_of:
                self._slots.append(UnitSlot(placed[name]))
            self._sums = summed_blocks(self._slots)
        except BaseException:
            self.detach()
            raise
        self._kept = {slot.unit.name: _KeptUnit(slot.unit) for slot in self._slots}
        self._planned: BACConfig | None = None
        self._turns: list[_Turn] = []

    def run(
        self,
        call: CachedCall,
        given: Batch,
        denoise: Callable[[], object],
    ) -> object:
        """See `DenoiserCache.run`."""
        turn = self._turn(call.step_index)
        try:
            if call.is_continuous:
                for slot, kept in turn.reused:
                    slot.given = kept.get(call)
            output = denoise()
            self._collect(turn, call)
            return output
        finally:
            for slot in self._slots:
                slot.given = slot.taken = None

    def select(self, sources: Mapping[int, int], num_candidates: int) -> None:
        """See `DenoiserCache.select`."""
        for store in self._stores():
            store.select(sources, num_candidates)

    def clear(self) -> None:
        """See `DenoiserCache.clear`."""
        for kept in self._kept.values():
            kept.stores.clear()

    @property
    def num_bytes(self) -> int:
        """See `DenoiserCache.num_bytes`."""
        return sum(store.num_bytes for store in self._stores())

    @property
    def is_in_place(self) -> bool:
        """See `DenoiserCache.is_in_place`."""
        placed = {unit.name: unit.modules for unit in units_of(self._module)}
        return all(placed.get(slot.unit.name) == slot.unit.modules for slot in self._slots)

    def detach(self) -> None:
        """See `DenoiserCache.detach`."""
        for block in self._sums:
            block.detach()
        for slot in reversed(self._slots):
            slot.detach()

    def _collect(self, turn: _Turn, call: CachedCall) -> None:
        """Count what sub-blocks did, and keep what they returned, if that is of use."""
        rows = len(call.rows.rows)
        answered = sum(slot.given is not None for slot, _ in turn.reused)
        self.tally.reused += rows * answered
        self.tally.computed += rows * (len(self._slots) - answered)
        self.tally.refused += rows * (len(turn.reused) - answered)
        for slot, kept in turn.lasting:
            if slot.given is None and slot.taken is not None:
                kept.put(call, slot.taken)

    def _turn(self, step: int | None) -> _Turn:
        """What the schedule of this run says of a step; nothing outside of it."""
        if self._planned is not self._cache.plan:
            self._planned = plan = self._cache.plan
            reused = [
                tuple(
                    (slot, self._kept[slot.unit.name])
                    for slot in self._slots
                    if index < plan.num_steps and index not in plan.updates_of[slot.unit.name]
                )
                for index in range(plan.num_steps + 1)
            ]
            self._turns = [_Turn(now, then) for now, then in pairwise(reused)]
        is_known = step is not None and step < len(self._turns)
        return self._turns[step] if is_known and step is not None else _Turn()

    def _stores(self) -> list[RowStore]:
        return [store for kept in self._kept.values() for store in kept.stores]
