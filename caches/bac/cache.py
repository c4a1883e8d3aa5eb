"""Reusing the outputs of single sub-blocks, each by its own calibrated schedule.

Source: BAC (arXiv 2506.13456). What is kept is a sub-block's output before gate and residual, so
that both stay those of the present step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from caches.bac.config import BACConfig
from caches.bac.units import Outputs, UnitSlot
from caches.blocks import units_of
from caches.cache import Cache, DenoiserCache
from caches.call import CachedCall
from caches.row_store import RowStore
from gensift.denoising.families import family_of
from gensift.errors import ConfigError


class BAC(Cache):
    """Answers for sub-blocks whose schedule reuses them with what they returned before."""

    name = "bac"
    config_class: ClassVar[type[BACConfig]] = BACConfig

    def __init__(self, config: BACConfig) -> None:
        """Make a cache for one pipeline at a time."""
        super().__init__()
        self.config = self.plan = config

    def check(self, pipe: Any) -> None:
        """See `Cache.check`."""
        if self.config.fingerprint is not None:
            self.config.fingerprint.check_pipeline(pipe)

    def begin(self) -> None:
        """Fit the schedules to the number of steps of this run."""
        self.plan = self.config.with_steps(self.clock.num_steps)

    def make_part(self, module: torch.nn.Module) -> DenoiserCache:
        """See `Cache.make_part`."""
        return _CachedUnits(self, module)


class _KeptUnit:
    """What is kept of one sub-block: one store for each tensor that it returns."""

    def __init__(self) -> None:
        self.stores: list[RowStore] = []

    def put(self, call: CachedCall, outputs: Outputs) -> None:
        while len(self.stores) < len(outputs):
            self.stores.append(RowStore())
        for store, output in zip(self.stores, outputs, strict=False):
            store.put(call.context, call.rows.rows, output)

    def get(self, call: CachedCall) -> Outputs | None:
        found = [store.get(call.context, call.rows.rows) for store in self.stores]
        outputs = tuple(output for output in found if output is not None)
        return outputs if outputs and len(outputs) == len(found) else None


class _CachedUnits(DenoiserCache):
    """The sub-blocks of one denoiser."""

    def __init__(self, cache: BAC, module: torch.nn.Module) -> None:
        super().__init__(cache._tally)
        self._cache = cache
        self._leading = family_of(module).leading
        placed = {unit.name: unit for unit in units_of(module)}
        missing = [name for name in cache.config.updates_of if name not in placed]
        if missing:
            raise ConfigError(
                f"{type(module).__name__} has no sub-block {missing[0]!r} (and "
                f"{len(missing) - 1} more of this profile); calibrate for this model."
            )
        self._slots: list[UnitSlot] = []
        try:
            for name in cache.config.updates_of:
                self._slots.append(UnitSlot(placed[name]))
        except BaseException:
            self.detach()
            raise
        self._kept = {slot.unit.name: _KeptUnit() for slot in self._slots}

    def run(
        self,
        call: CachedCall,
        arguments: Callable[[], dict[str, Any]],
        denoise: Callable[[], Any],
    ) -> Any:
        """See `DenoiserCache.run`."""
        try:
            for slot in self._slots:
                self._prepare(slot, call)
            output = denoise()
            for slot in self._slots:
                self._collect(slot, call)
            return output
        finally:
            for slot in self._slots:
                slot.given = slot.taken = None
                slot.is_watched = False

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

    def detach(self) -> None:
        """See `DenoiserCache.detach`."""
        for slot in reversed(self._slots):
            slot.detach()

    def _prepare(self, slot: UnitSlot, call: CachedCall) -> None:
        """Give a sub-block what it returned before, or watch what it is going to return."""
        step, plan = call.step_index, self._cache.plan
        if step is None:
            return
        updates = plan.updates_of[slot.unit.name]
        if step not in updates and call.is_continuous:
            slot.given = self._kept[slot.unit.name].get(call)
        slot.is_watched = step + 1 < plan.num_steps and step + 1 not in updates

    def _collect(self, slot: UnitSlot, call: CachedCall) -> None:
        rows = len(call.rows.rows)
        if slot.given is not None:
            self.tally.reused += rows
            return
        self.tally.computed += rows
        step = call.step_index
        if step is not None and step not in self._cache.plan.updates_of[slot.unit.name]:
            self.tally.refused += rows
        if slot.taken is not None:
            self._kept[slot.unit.name].put(call, slot.taken)

    def _stores(self) -> list[RowStore]:
        return [store for kept in self._kept.values() for store in kept.stores]
