"""Reusing whole denoiser evaluations by a calibrated schedule.

Source: ERTACache (arXiv 2508.21091). Ours: schedules found by an exact dynamic program, three kinds
of residual, the linear form of the rectification (its printed form, through a sigmoid, adds a
constant error of 0.119), rows that follow a search, and schedules of any spacing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from caches.body import Body
from caches.cache import Cache, DenoiserCache
from caches.call import CachedCall
from caches.ertacache.config import ERTACacheConfig, StepRectification
from caches.ertacache.outputs import (
    as_tensor,
    channel_dim,
    matching,
    prediction_in,
    with_prediction,
)
from caches.planning.timesteps import adjusted_sigmas
from caches.profile import guidance_scale_of, scheduled_sigmas
from caches.row_store import RowStore
from gensift.denoising.families import family_of
from gensift.errors import ConfigError

# Solvers whose schedule may be moved in the middle: one evaluation per step, no history, and
# timesteps that are just the noise levels on another scale.
EULER_SOLVERS = ("FlowMatchEulerDiscreteScheduler",)


class ERTACache(Cache):
    """Answers the steps that its schedule reuses with the last evaluation that was made."""

    name = "ertacache"
    config_class: ClassVar[type[ERTACacheConfig]] = ERTACacheConfig

    def __init__(self, config: ERTACacheConfig) -> None:
        """Make a cache for one pipeline at a time."""
        super().__init__()
        self.config = config
        self.plan = config

    def check(self, pipe: Any) -> None:
        """See `Cache.check`."""
        if self.config.fingerprint is not None:
            self.config.fingerprint.check_pipeline(pipe)
        scheduler = type(pipe.scheduler).__name__
        if self.config.step_shares and scheduler not in EULER_SOLVERS:
            raise ConfigError(
                f"`step_shares` moves the noise levels of the steps, which {scheduler} does not "
                f"allow; leave them out, or use {', '.join(EULER_SOLVERS)}."
            )
        self._has_told = False

    def begin(self) -> None:
        """Fit the schedule of this run: as many steps as it has, steps moved where asked."""
        self.plan = self.config.with_steps(self.clock.num_steps)
        self._nominal = scheduled_sigmas(self.clock.scheduler)
        if self.plan.step_shares:
            move_steps(self.clock.scheduler, self.plan)

    def make_part(self, module: torch.nn.Module) -> DenoiserCache:
        """See `Cache.make_part`."""
        return _ReusedDenoiser(self, module)

    def tell_of_differences(self, latents: Any) -> None:
        """Warn once where the run is not what was calibrated on."""
        if self._has_told or self.config.fingerprint is None:
            return
        self._has_told = True
        shape = tuple(latents[0].shape)
        self.config.fingerprint.warn_of_run(self._nominal, guidance_scale_of(self._pipe), shape)


class _ReusedDenoiser(DenoiserCache):
    """What is kept of one denoiser's evaluations."""

    def __init__(self, cache: ERTACache, module: torch.nn.Module) -> None:
        super().__init__(cache._tally)
        self._cache = cache
        self._leading = family_of(module).leading
        self._body = Body(module) if cache.config.residual == "body" else None
        self._kept = RowStore()
        # Per context: shape and type of the input, and an output without rows.
        self._forms: dict[Any, tuple[Any, Any]] = {}

    def run(
        self,
        call: CachedCall,
        arguments: Callable[[], dict[str, Any]],
        denoise: Callable[[], Any],
    ) -> Any:
        """See `DenoiserCache.run`."""
        step, plan = call.step_index, self._cache.plan
        count = len(call.rows.rows)
        latents = arguments()[self._leading]
        if step is not None and step not in plan.updates:
            output = self._reuse(call, latents, denoise)
            if output is not None:
                self.tally.reused += count
                return output
            self.tally.refused += count
        self.tally.computed += count
        is_used_next = step is not None and step + 1 < plan.num_steps
        if not is_used_next or step + 1 in plan.updates:  # type: ignore[operator]
            return denoise()
        self._cache.tell_of_differences(latents)
        return self._compute_and_keep(call, latents, denoise)

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

    def detach(self) -> None:
        """See `DenoiserCache.detach`."""
        if self._body is not None:
            self._body.detach()

    def _compute_and_keep(self, call: CachedCall, given: Any, denoise: Callable[[], Any]) -> Any:
        if self._body is None:
            output = denoise()
            residual = None
        else:
            output, residual = self._body.run(denoise)
        latents, prediction = as_tensor(given), as_tensor(prediction_in(output))
        if latents is None or prediction is None:
            return output
        if residual is None:
            residual = prediction.float()
            if self._cache.plan.residual == "increment":
                residual = residual - matching(latents, prediction)
        self._kept.put(call.context, call.rows.rows, residual)
        self._forms[call.context] = _layout(latents), with_prediction(output, prediction[:0])
        return output

    def _reuse(self, call: CachedCall, given: Any, denoise: Callable[[], Any]) -> Any | None:
        residual = self._kept.get(call.context, call.rows.rows) if call.is_continuous else None
        latents = as_tensor(given)
        if residual is None or latents is None:
            return None
        layout, form = self._forms[call.context]
        if layout != _layout(latents):
            return None
        if self._body is not None:
            form = self._body.skip(denoise, residual)
            predicted = as_tensor(prediction_in(form))
            if predicted is None:
                return None
            dtype, predicted = predicted.dtype, predicted.float()
        else:
            empty = prediction_in(form)
            dtype = latents.dtype if isinstance(empty, list) else empty.dtype
            predicted = residual
            if self._cache.plan.residual == "increment":
                predicted = residual + matching(latents, residual)
        return with_prediction(form, self._rectified(call, predicted).to(dtype))

    def _rectified(self, call: CachedCall, predicted: Tensor) -> Tensor:
        """`predicted` without the linear part of its error, where that is known."""
        found = [self._rectification(call, row) for row in call.rows.rows]
        if not any(found):
            return predicted
        shape = [len(found), *[1] * (predicted.ndim - 1)]
        shape[channel_dim(predicted)] = -1
        channels = max(len(item.slope) for item in found if item)
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


def _layout(latents: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return latents.shape[1:], latents.dtype, latents.device
