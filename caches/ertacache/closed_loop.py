"""ERTACache's threshold rule in a closed loop: each decision is made where earlier reuse has led.

One run per threshold, of all prompts at once, so that they decide together. The rule on recorded,
uncached runs (`caches.planning.threshold`) needs no run for a further threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from caches.cache import Cache, DenoiserCache
from caches.call import Batch, CachedCall
from caches.evaluation import Denoising
from caches.options import Prompts
from caches.outputs import as_tensor, matching, prediction_in, with_prediction
from caches.recording import RecordingPart
from gensift.errors import UnsupportedPipelineError

StepResidual = Literal["increment", "output"]


def closed_loop_updates(
    denoising: Denoising,
    prompts: Prompts,
    threshold: float,
    mode: StepResidual = "increment",
    *,
    must_update: Sequence[int] = (0,),
    max_reuse: int | None = None,
) -> tuple[int, ...]:
    """Steps that are computed when a step is reused while its error stays below `threshold`.

    Args:
        denoising: how to run; all prompts go into one call.
        prompts: whose errors are averaged.
        threshold: of the L1 error of what would be reused, relative to the increment.
        mode: what is kept.
        must_update: steps that are computed in any case.
        max_reuse: longest run of reused steps.
    """
    loop = _ClosedLoop(threshold, mode, frozenset(must_update), max_reuse)
    replace(denoising, batch_prompts=len(prompts)).run(prompts, loop)
    return tuple(loop.updates)


class _ClosedLoop(Cache):
    """Computes every step, and lets the loop go on with what would be reused."""

    name = "ertacache closed loop"

    def __init__(
        self,
        threshold: float,
        mode: StepResidual,
        must_update: frozenset[int],
        max_reuse: int | None,
    ) -> None:
        super().__init__()
        self.threshold, self.mode = threshold, mode
        self.must_update, self.max_reuse = must_update, max_reuse
        self.updates: list[int] = []
        self._decided: dict[int, bool] = {}

    def make_part(self, module: torch.nn.Module) -> DenoiserCache:
        """See `Cache.make_part`."""
        return _Part(self, module)

    def reuses(self, step: int, error: Callable[[], float]) -> bool:
        """Whether a step is reused; settled by the first of its calls."""
        if step not in self._decided:
            last = self.updates[-1] if self.updates else step
            is_due = self.max_reuse is not None and step - last > self.max_reuse
            must = not self.updates or step in self.must_update or is_due
            self._decided[step] = not must and error() < self.threshold
            if not self._decided[step]:
                self.updates.append(step)
        return self._decided[step]


class _Part(RecordingPart):
    def __init__(self, loop: _ClosedLoop, module: torch.nn.Module) -> None:
        super().__init__(loop.tally)
        self._loop = loop
        self._kept: dict[Hashable, Tensor] = {}

    def run(
        self,
        call: CachedCall,
        given: Batch,
        denoise: Callable[[], object],
    ) -> object:
        """See `DenoiserCache.run`."""
        output = denoise()
        self.tally.computed += len(call.rows.rows)
        latents = as_tensor(given)
        prediction = as_tensor(prediction_in(output))
        if call.step_index is None or latents is None or prediction is None:
            raise UnsupportedPipelineError(
                "This pipeline cannot be calibrated in a closed loop: its rows differ in size, or "
                "it denoises outside of its scheduler's loop. Calibrate without --closed-loop."
            )
        own = matching(latents, prediction)
        start = own if self._loop.mode == "increment" else torch.zeros_like(own)
        residual = prediction.float() - start

        def error() -> float:
            difference = (self._kept[call.context] - residual).abs().flatten(1).sum(1)
            size = (prediction.float() - own).abs().flatten(1).sum(1)
            return float((difference / size.clamp(min=1e-12)).mean())

        if not self._loop.reuses(call.step_index, error):
            self._kept[call.context] = residual
            return output
        reused = start + self._kept[call.context]
        return with_prediction(output, reused.to(prediction.dtype))

    def clear(self) -> None:
        """See `DenoiserCache.clear`."""
        self._kept.clear()
