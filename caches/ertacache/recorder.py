"""Recording what reuse would cost: one uncached run per prompt, every lag at once.

Only running sums are kept, and the outputs of the last few steps; never all latents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caches.body import Body
from caches.cache import Cache, DenoiserCache
from caches.call import Batch, CachedCall
from caches.ertacache.cache import branch_of, move_steps
from caches.ertacache.config import ERTACacheConfig, ResidualMode
from caches.evaluation import now
from caches.fingerprint import scheduled_sigmas
from caches.outputs import as_tensor, channel_dim, matching, prediction_in
from caches.planning.rectification import Moments
from caches.recording import RecordingPart, recorded
from gensift.errors import UnsupportedPipelineError

# (mode, branch, anchor step, step)
MomentKey = tuple[ResidualMode, str, int, int]
ShareRule = Literal["velocity", "change"]
"""What the error of a reused step is compared with, to shorten the step: the velocity itself, or
its change since the step before. The sources of the paper differ. By the latter, a step that reuses
the one before is as wrong as the velocity has changed, so that it gets next to no length."""

Array = NDArray[np.float64]


@dataclass
class ReuseStatistics:
    """What reusing step a at step t would cost, summed over prompts and branches.

    Attributes:
        num_steps: of the schedule.
        fitted: moments of reused outputs and their errors, of the prompts to fit on.
        held_out: the same of the other prompts.
        latents: shape of one row of the denoiser's input.
        sigmas: noise levels of the schedule.
        groups: guidance groups per denoiser call.
        full_seconds: duration of each denoiser call.
        skip_seconds: duration of each call that passed over the blocks.
    """

    num_steps: int
    latents: tuple[int, ...] = ()
    sigmas: tuple[float, ...] = ()
    groups: int = 1
    fitted: dict[MomentKey, Moments] = field(default_factory=dict)
    held_out: dict[MomentKey, Moments] = field(default_factory=dict)
    full_seconds: list[float] = field(default_factory=list)
    skip_seconds: list[float] = field(default_factory=list)
    _sums: dict[tuple[ResidualMode, str], Array] = field(default_factory=dict)
    _counts: dict[ResidualMode, Array] = field(default_factory=dict)

    @property
    def modes(self) -> tuple[ResidualMode, ...]:
        """The kinds of residual that were measured."""
        return tuple(self._counts)

    def speedup(self, mode: ResidualMode, num_updates: int) -> float:
        """How much faster the denoiser is with `num_updates` computed steps."""
        # Only the body mode runs something when it reuses: what lies around the blocks.
        costs = 0.0
        if mode == "body":
            costs = float(np.median(self.skip_seconds) / np.median(self.full_seconds))
        return self.num_steps / (num_updates + costs * (self.num_steps - num_updates))

    def cost(self, mode: ResidualMode) -> Array:
        """Mean relative L1 error `(steps, steps)` of reusing step a (row) at step t (column).

        Relative to the increment (output minus input) of step t, for every mode; infinite where it
        was not measured.
        """
        return self._mean(mode, "error")

    def step_shares(self, mode: ResidualMode, rule: ShareRule) -> Array:
        """Mean share phi `(steps, steps)` of its length that a reused step deserves."""
        return self._mean(mode, rule)

    def add(
        self, mode: ResidualMode, anchor: int, step: int, figures: Mapping[str, Tensor]
    ) -> None:
        """Add one call's rows: each of `figures` is float `(rows,)`."""
        for name, values in figures.items():
            sums = self._sums.setdefault((mode, name), self._zeros())
            sums[anchor, step] += float(values.double().sum())
        counts = self._counts.setdefault(mode, self._zeros())
        counts[anchor, step] += len(figures["error"])

    def _mean(self, mode: ResidualMode, name: str) -> Array:
        counts = self._counts[mode]
        return np.where(counts > 0, self._sums[mode, name] / np.maximum(counts, 1), np.inf)

    def _zeros(self) -> Array:
        return np.zeros((self.num_steps, self.num_steps))


@dataclass(frozen=True)
class _Past:
    """An evaluation that was made."""

    step: int
    prediction: Tensor
    residuals: Mapping[ResidualMode, Tensor]


class ReuseRecorder(Cache):
    """Reuses nothing, and measures what reuse would have cost.

    Attributes:
        statistics: the sums so far; None before the first run.
        num_prompts: prompts of the present pipeline call, one row each per guidance group.
        first_prompt: number of the first of them; even numbers are fitted, odd ones held out.
    """

    name = "ertacache recorder"

    def __init__(self, max_reuse: int, moved: ERTACacheConfig | None = None) -> None:
        """Measure lags up to `max_reuse`, on the schedule as it is or as `moved` moves it."""
        super().__init__()
        self.max_reuse = max_reuse
        self.moved = moved
        self.statistics: ReuseStatistics | None = None
        self.num_prompts = self.first_prompt = 0

    def begin(self) -> None:
        """See `Cache.begin`."""
        if self.statistics is None:
            self.statistics = ReuseStatistics(
                self.clock.num_steps, sigmas=scheduled_sigmas(self.clock.scheduler)
            )
        if self.moved is not None and self.moved.step_shares:
            move_steps(self.clock.scheduler, self.moved)

    def make_part(self, module: torch.nn.Module) -> DenoiserCache:
        """See `Cache.make_part`."""
        return _Recorder(self, module)


class _Recorder(RecordingPart):
    def __init__(self, recorder: ReuseRecorder, module: torch.nn.Module) -> None:
        super().__init__(recorder.tally)
        self._recorder = recorder
        try:
            self._body: Body | None = Body(module)
        except UnsupportedPipelineError:  # no blocks that are known: the other modes remain
            self._body = None
        self._past: dict[Hashable, deque[_Past]] = {}

    def run(
        self,
        call: CachedCall,
        given: Batch,
        denoise: Callable[[], object],
    ) -> object:
        """See `DenoiserCache.run`."""
        self.tally.computed += len(call.rows.rows)
        statistics, start = recorded(self._recorder.statistics), now()
        if self._body is None:
            output, body = denoise(), None
        else:
            output, body = self._body.run(denoise)
        statistics.full_seconds.append(now() - start)
        latents = as_tensor(given)
        prediction = as_tensor(prediction_in(output))
        if call.step_index is None or latents is None or prediction is None:
            raise UnsupportedPipelineError(
                "This pipeline cannot be recorded: its rows differ in size, or it denoises "
                "outside of its scheduler's loop. Give prompts one by one, of equal length."
            )
        prediction = prediction.float()
        increment = prediction - matching(latents, prediction)
        residuals: dict[ResidualMode, Tensor] = {"increment": increment, "output": prediction}
        if body is not None:
            residuals["body"] = body
        past = self._past.setdefault(call.context, deque(maxlen=self._recorder.max_reuse))
        for earlier in past:
            self._measure(call, earlier, past[-1], latents, prediction, denoise)
        past.append(_Past(call.step_index, prediction, residuals))
        return output

    def clear(self) -> None:
        """See `DenoiserCache.clear`."""
        self._past.clear()

    def detach(self) -> None:
        """See `DenoiserCache.detach`."""
        if self._body is not None:
            self._body.detach()

    def _measure(
        self,
        call: CachedCall,
        earlier: _Past,
        latest: _Past,
        latents: Tensor,
        prediction: Tensor,
        denoise: Callable[[], object],
    ) -> None:
        statistics, step = recorded(self._recorder.statistics), recorded(call.step_index)
        statistics.latents = tuple(latents.shape[1:])
        own = matching(latents, prediction)
        norm = _row_sums(prediction - own)
        scales = {
            "velocity": _row_sums(prediction),
            "change": _row_sums(prediction - latest.prediction),
        }
        for mode, residual in earlier.residuals.items():
            if mode == "body":
                assert self._body is not None
                start = now()
                skipped = as_tensor(prediction_in(self._body.run(denoise, residual)[0]))
                statistics.skip_seconds.append(now() - start)
                assert skipped is not None
                reused = skipped.float()
            else:
                reused = residual + own if mode == "increment" else residual
            error = reused - prediction
            size = _row_sums(error)
            figures = {"error": size / norm.clamp(min=1e-12)}
            # Where nothing changes between steps, reuse is exact and deserves the whole step.
            figures |= {
                rule: torch.where(size > 0, 1 - size / scale.clamp(min=1e-12), 1.0).clamp(0, 1)
                for rule, scale in scales.items()
            }
            statistics.add(mode, earlier.step, step, figures)
            self._add_moments(statistics, mode, earlier.step, call, reused, error)

    def _add_moments(
        self,
        statistics: ReuseStatistics,
        mode: ResidualMode,
        anchor: int,
        call: CachedCall,
        reused: Tensor,
        error: Tensor,
    ) -> None:
        whole, recorder = call.rows.call, self._recorder
        statistics.groups = max(1, whole.num_rows // max(1, recorder.num_prompts))
        dim = channel_dim(reused)
        for index, row in enumerate(call.rows.rows):
            branch = branch_of(call.branch, row, whole.num_rows, statistics.groups)
            prompt = recorder.first_prompt + row % max(1, recorder.num_prompts)
            table = statistics.held_out if prompt % 2 else statistics.fitted
            pair = (
                tensor[index].movedim(dim - 1, 0).flatten(1).cpu() for tensor in (reused, error)
            )
            values, errors = (part.numpy() for part in pair)
            key = (mode, branch or call.branch, anchor, call.step_index or 0)
            table.setdefault(key, Moments.empty(len(values))).add(values, errors)


def _row_sums(values: Tensor) -> Tensor:
    return values.abs().flatten(1).sum(1)
