"""Reusing whole denoiser evaluations by a calibrated schedule.

Source: ERTACache (arXiv 2508.21091). Ours: schedules found by an exact dynamic program, three kinds
of residual, the linear form of the rectification (its printed form, through a sigmoid, adds a
constant error of 0.119), rows that follow a search, and schedules of any spacing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from caches.body import Body
from caches.cache import Cache, DenoiserCache
from caches.call import Batch, CachedCall
from caches.ertacache.config import ERTACacheConfig, StepRectification
from caches.graphs import between_graphs, outside_graphs
from caches.outputs import (
    as_tensor,
    channel_dim,
    matching,
    prediction_in,
    with_prediction,
)
from caches.planning.timesteps import adjusted_sigmas
from caches.row_store import RowStore
from gensift.errors import ConfigError
from gensift.protocols import Pipeline

# Solvers whose schedule may be moved in the middle: one evaluation per step, no history, and
# timesteps that are just the noise levels on another scale.
EULER_SOLVERS = ("FlowMatchEulerDiscreteScheduler",)


class ERTACache(Cache):
    """Answers the steps that its schedule reuses with the last evaluation that was made."""

    name = "ertacache"
    config: ERTACacheConfig

    def __init__(self, config: ERTACacheConfig) -> None:
        """Make a cache for one pipeline at a time."""
        super().__init__(config)
        self.plan = config

    def check(self, pipe: Pipeline) -> None:
        """See `Cache.check`."""
        super().check(pipe)
        scheduler = type(pipe.scheduler).__name__
        if self.config.step_shares and scheduler not in EULER_SOLVERS:
            raise ConfigError(
                f"`step_shares` moves the noise levels of the steps, which {scheduler} does not "
                f"allow; leave them out, or use {', '.join(EULER_SOLVERS)}."
            )

    def begin(self) -> None:
        """Fit the schedule of this run: as many steps as it has, steps moved where asked."""
        self.plan = self.config.with_steps(self.clock.num_steps)
        if self.plan.step_shares:
            move_steps(self.clock.scheduler, self.plan)

    def make_part(self, module: torch.nn.Module) -> DenoiserCache:
        """See `Cache.make_part`."""
        return _ReusedDenoiser(self, module)


class _ReusedDenoiser(DenoiserCache):
    """What is kept of one denoiser's evaluations."""

    def __init__(self, cache: ERTACache, module: torch.nn.Module) -> None:
        super().__init__(cache.tally)
        self._cache = cache
        self._body = Body(module) if cache.config.residual == "body" else None
        self._kept = RowStore(is_padded=self._body is not None and self._body.is_padded)
        # Per context: an output without rows.
        self._forms: dict[Hashable, object] = {}

    @between_graphs
    def run(
        self,
        call: CachedCall,
        given: Batch,
        denoise: Callable[[], object],
    ) -> object:
        """See `DenoiserCache.run`."""
        kept = self._recalled(call)
        residual = None
        if self._body is not None:
            output, residual = self._body.run(denoise, kept)
            is_reused = residual is None
        else:
            is_reused = kept is not None
            output = denoise() if kept is None else self._rebuilt(call, given, kept)
        self._count(call, is_reused)
        if not is_reused:
            self._keep(call, given, output, residual)
        elif self._body is not None:
            output = self._corrected(call, output)
        return output

    def select(self, sources: Mapping[int, int], num_candidates: int) -> None:
        """See `DenoiserCache.select`."""
        self._kept.select(sources, num_candidates)

    def clear(self) -> None:
        """See `DenoiserCache.clear`."""
        self._kept.clear()
        self._forms.clear()

    @property
    def num_bytes(self) -> int:
        """See `DenoiserCache.num_bytes`."""
        return self._kept.num_bytes

    @property
    def is_in_place(self) -> bool:
        """See `DenoiserCache.is_in_place`."""
        return self._body is None or self._body.is_in_place

    def detach(self) -> None:
        """See `DenoiserCache.detach`."""
        if self._body is not None:
            self._body.detach()

    def _is_reused(self, step: int | None) -> bool:
        """Whether the schedule reuses at a step."""
        plan = self._cache.plan
        return step is not None and step < plan.num_steps and step not in plan.updates

    def _count(self, call: CachedCall, is_reused: bool) -> None:
        rows = len(call.rows.rows)
        if is_reused:
            self.tally.reused += rows
            return
        self.tally.computed += rows
        if self._is_reused(call.step_index):
            self.tally.refused += rows

    @outside_graphs
    def _recalled(self, call: CachedCall) -> Tensor | None:
        """What is kept for this call; None where it is to be computed, or nothing is in hand."""
        if not self._is_reused(call.step_index) or not call.is_continuous:
            return None
        return self._kept.get(call.context, call.rows.rows)

    @outside_graphs
    def _keep(
        self, call: CachedCall, given: Batch, output: object, residual: Tensor | None
    ) -> None:
        """Keep what the next step reuses, if it does."""
        if call.step_index is None or not self._is_reused(call.step_index + 1):
            return
        latents, prediction = as_tensor(given), as_tensor(prediction_in(output))
        if latents is None or prediction is None:
            return
        if residual is None:
            # A copy: what a pipeline does to the output in place must not come back.
            residual = prediction.to(torch.float32, copy=True)
            if self._cache.plan.residual == "increment":
                residual -= matching(latents, prediction)
        self._kept.put(call.context, call.rows.rows, residual)
        self._forms[call.context] = with_prediction(output, prediction[:0])

    @outside_graphs
    def _rebuilt(self, call: CachedCall, given: Batch, kept: Tensor) -> object:
        """The output of which `kept` was left, for the latents `given` now."""
        form, latents = self._forms[call.context], as_tensor(given)
        assert latents is not None  # as it was when the rows of this layout were kept
        empty = prediction_in(form)
        dtype = empty.dtype if isinstance(empty, Tensor) else latents.dtype
        is_increment = self._cache.plan.residual == "increment"
        predicted = kept + matching(latents, kept) if is_increment else kept
        return with_prediction(form, self._rectified(call, predicted).to(dtype, copy=True))

    @outside_graphs
    def _corrected(self, call: CachedCall, output: object) -> object:
        """The denoiser's own output, rectified."""
        predicted = as_tensor(prediction_in(output))
        if predicted is None:
            return output
        rectified = self._rectified(call, predicted.float())
        return with_prediction(output, rectified.to(predicted.dtype))

    def _rectified(self, call: CachedCall, predicted: Tensor) -> Tensor:
        """`predicted`, float32, without the linear part of its error, where that is known."""
        found = [self._rectification(call, row) for row in call.rows.rows]
        if not any(found):
            return predicted
        shape = [len(found), *[1] * (predicted.ndim - 1)]
        shape[channel_dim(predicted)] = -1
        channels = max(len(item.slope) for item in found if item)
        if channels not in (1, predicted.shape[channel_dim(predicted)]):
            raise ConfigError(
                f"`rectification` is of {channels} channels, the output has "
                f"{predicted.shape[channel_dim(predicted)]}; calibrate for this model."
            )
        slope, offset = (
            torch.tensor(
                [_numbers(getattr(item, name, (0.0,)), channels) for item in found],
                device=predicted.device,
            ).view(shape)
            for name in ("slope", "offset")
        )
        return predicted - (slope * predicted + offset)

    def _rectification(self, call: CachedCall, row: int) -> StepRectification | None:
        whole, plan = call.rows.call, self._cache.plan
        branch = branch_of(call.branch, row, whole.num_rows, plan.groups)
        wanted = (branch, call.step_index)
        return next((r for r in plan.rectification if (r.branch, r.step) == wanted), None)


def branch_of(branch: str, row: int, num_rows: int, groups: int) -> str | None:
    """Name of the branch of a row: of its call, and of its guidance group where there are several.

    None where the call does not have that many groups.
    """
    if groups == 1:
        return branch
    size, rest = divmod(num_rows, groups)
    return None if rest else f"{branch}/{row // size}"


def move_steps(scheduler: Any, plan: ERTACacheConfig) -> None:
    """Write the moved noise levels of `plan` into a scheduler whose schedule was just made."""
    nominal = scheduler.sigmas
    moved = adjusted_sigmas(nominal.double().cpu().numpy(), plan.updates, plan.step_shares)
    scheduler.sigmas = torch.from_numpy(moved).to(nominal)
    scheduler.timesteps = (scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps).to(
        scheduler.timesteps
    )


def _numbers(values: tuple[float, ...], count: int) -> list[float]:
    return list(values) * count if len(values) == 1 else list(values)
