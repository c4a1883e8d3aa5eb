"""Recording how alike the outputs of each sub-block are at different steps, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caches.bac.units import Outputs, UnitSlot
from caches.blocks import Kind, units_of
from caches.cache import Cache, DenoiserCache
from caches.call import Batch, CachedCall
from caches.evaluation import now
from caches.fingerprint import scheduled_sigmas
from caches.recording import RecordingPart, recorded

Array = NDArray[np.float64]
# Numbers kept of one row's output of one sub-block at one step. All sub-blocks of FLUX over 28
# steps would take 100 GiB in full; evenly spaced samples of this many give cosines to about 0.01.
_SAMPLES = 8192


@dataclass
class UnitStatistics:
    """What was seen of one sub-block.

    Attributes:
        layer: its block's number in execution order.
        kind: what it is.
        similarity: sum over rows of the cosines `(steps, steps)` between its outputs.
        change: sum over rows of the mean absolute difference over all pairs of steps.
        rows: rows summed.
        seconds: time spent in it.
    """

    layer: int
    kind: Kind
    similarity: Array
    change: float = 0.0
    rows: int = 0
    seconds: float = 0.0


@dataclass
class SimilarityStatistics:
    """What was seen of all sub-blocks of a denoiser, in execution order."""

    num_steps: int
    latents: tuple[int, ...] = ()
    sigmas: tuple[float, ...] = ()
    seconds: float = 0.0
    units: dict[str, UnitStatistics] = field(default_factory=dict)

    def similarity(self, unit: str) -> Array:
        """Mean cosine `(steps, steps)` between the unit's outputs at two steps."""
        found = self.units[unit]
        return found.similarity / max(1, found.rows)

    def change(self, unit: str) -> float:
        """Mean absolute difference of the unit's outputs over all pairs of steps."""
        found = self.units[unit]
        return found.change / max(1, found.rows)

    def share_of_time(self, unit: str) -> float:
        """Share of the denoiser's time that is spent in the unit."""
        return self.units[unit].seconds / max(self.seconds, 1e-12)


class SimilarityRecorder(Cache):
    """Reuses nothing, and records the outputs of all sub-blocks.

    Attributes:
        statistics: the sums so far; None before the first run.
    """

    name = "bac recorder"

    def __init__(self) -> None:
        super().__init__()
        self.statistics: SimilarityStatistics | None = None

    def begin(self) -> None:
        """See `Cache.begin`."""
        if self.statistics is None:
            self.statistics = SimilarityStatistics(
                self.clock.num_steps, sigmas=scheduled_sigmas(self.clock.scheduler)
            )

    def make_part(self, module: torch.nn.Module) -> DenoiserCache:
        """See `Cache.make_part`."""
        return _Recorder(self, module)


class _Recorder(RecordingPart):
    def __init__(self, recorder: SimilarityRecorder, module: torch.nn.Module) -> None:
        super().__init__(recorder.tally)
        self._recorder = recorder
        self._slots = [UnitSlot(unit) for unit in units_of(module)]
        for slot in self._slots:
            slot.run = self._timed(slot)
        # Per context: for each sub-block its samples at each step so far.
        self._seen: dict[Hashable, dict[str, list[Tensor]]] = {}

    def run(
        self,
        call: CachedCall,
        given: Batch,
        denoise: Callable[[], object],
    ) -> object:
        """See `DenoiserCache.run`."""
        statistics = recorded(self._recorder.statistics)
        step_index = recorded(call.step_index)
        self.tally.computed += len(call.rows.rows)
        if isinstance(given[0], Tensor):
            statistics.latents = tuple(given[0].shape)
        start = now()
        try:
            output = denoise()
            statistics.seconds += now() - start
            seen = self._seen.setdefault(call.context, {})
            for slot in self._slots:
                if slot.taken is not None:
                    seen.setdefault(slot.unit.name, []).append(_samples(slot.taken))
        finally:
            for slot in self._slots:
                slot.taken = None
        if step_index == statistics.num_steps - 1:
            self._sum_up(statistics, self._seen.pop(call.context))
        return output

    def clear(self) -> None:
        """See `DenoiserCache.clear`."""
        self._seen.clear()

    def detach(self) -> None:
        """See `DenoiserCache.detach`."""
        for slot in reversed(self._slots):
            slot.detach()

    def _timed(self, slot: UnitSlot) -> Callable[[Callable[[], object]], object]:
        def run(compute: Callable[[], object]) -> object:
            start = now()
            output = compute()
            self._statistics_of(slot).seconds += now() - start
            return output

        return run

    def _statistics_of(self, slot: UnitSlot) -> UnitStatistics:
        statistics = recorded(self._recorder.statistics)
        unit, steps = slot.unit, statistics.num_steps
        fresh = UnitStatistics(unit.layer, unit.kind, np.zeros((steps, steps)))
        return statistics.units.setdefault(unit.name, fresh)

    def _sum_up(self, statistics: SimilarityStatistics, seen: dict[str, list[Tensor]]) -> None:
        for slot in self._slots:
            # Layers that guidance skips in some calls are learned from the other calls.
            steps = seen.get(slot.unit.name, [])
            if len(steps) != statistics.num_steps:
                continue
            unit = self._statistics_of(slot)
            outputs = torch.stack(steps, dim=1)  # (rows, steps, samples)
            unit_length = torch.nn.functional.normalize(outputs, dim=-1)
            cosines = unit_length @ unit_length.transpose(1, 2)
            unit.similarity += cosines.sum(0).double().numpy()
            unit.change += float(_pairwise_change(outputs).sum())
            unit.rows += len(outputs)


def _samples(outputs: Outputs) -> Tensor:
    """Evenly spaced numbers of each row's outputs, float32 `(rows, samples)` on the CPU."""
    flat = torch.cat([output.flatten(1) for output in outputs], dim=1)
    stride = max(1, flat.shape[1] // _SAMPLES)
    return flat[:, ::stride].float().cpu()


def _pairwise_change(outputs: Tensor) -> Tensor:
    """Mean absolute difference over pairs of steps, `(rows,)`, of outputs `(rows, steps, n)`."""
    steps = outputs.shape[1]
    total = torch.zeros(len(outputs))
    for step in range(1, steps):
        difference = outputs[:, step:] - outputs[:, :-step]
        total += difference.abs().mean(-1).sum(1)
    return total / max(1, steps * (steps - 1) // 2)
