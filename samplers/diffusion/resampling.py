"""Searches that copy good candidates over bad ones, on the way from noise to picture.

Before a chosen step every candidate's clean-picture estimate is scored and each row is given a
parent, whose latents it takes over; then all rows make the step with noise of their own, so copies
part at once.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from gensift.config import option
from gensift.denoising.observer import StepEvent
from gensift.denoising.scheduler_rows import check_copyable
from gensift.trace import Stage
from samplers.diffusion.attach import PipelineCall
from samplers.diffusion.flow_sde import flow_sde
from samplers.diffusion.search import DiffusionSearch, EarlySearchConfig, Plan
from samplers.diffusion.sift import Sift
from samplers.diffusion.stochastic import Sde, wants_flow_sde


@dataclass(frozen=True, kw_only=True)
class ResamplingConfig(EarlySearchConfig):
    """Options of the searches that copy candidates."""

    sde: Sde = option(
        "auto",
        choices=("auto", "flow", "none"),
        help="noise added to the solver's steps: flow makes the Euler solver of flow models an "
        "SDE, auto does so wherever that is the solver, none leaves the solver as it is",
    )
    sde_scale: float = option(
        1.0, minimum=0, help="strength of that noise: its g as a multiple of sigma"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.sde_scale == 0:
            yield "`sde_scale` 0 draws no noise, so copies would stay alike; give more"


class Chooser(Protocol):
    """Chooses parents for the candidates of one prompt, from one choice to the next."""

    def choose(self, rewards: Sequence[float]) -> list[int]:
        """The parent of each candidate, given their newest rewards; -inf must have no heirs."""
        ...


class ResamplingSearch(DiffusionSearch):
    """A search that copies candidates at its checkpoints; subclasses say which."""

    is_reproducible: ClassVar[bool] = False
    config: ResamplingConfig

    @abstractmethod
    def chooser(self, seeds: Sequence[int]) -> Chooser:
        """What chooses for one prompt, whose candidates have these seeds."""

    def plan_call(self, call: PipelineCall, num_candidates: int) -> Plan:
        """The plan of one pipeline call with `num_candidates` per prompt.

        Raises:
            UnsupportedPipelineError: the solver is deterministic, or its rows cannot be copied.
        """
        wants_flow_sde(call.pipe, call.arguments, self.config.sde)
        check_copyable(call.pipe.scheduler)
        return super().plan_call(call, num_candidates)

    def solver(self, call: PipelineCall) -> AbstractContextManager[None]:
        """Random steps for a flow model; other solvers must have their own."""
        if not wants_flow_sde(call.pipe, call.arguments, self.config.sde):
            return nullcontext()
        seeds = [seed for group in call.seeds for seed in group]
        return flow_sde(call.pipe.scheduler, seeds, self.config.sde_scale)

    def make_sift(self, **state: Any) -> Sift:
        """Copies candidates where another search would prune them."""
        return ResamplingSift(**state, choosers=[self.chooser(seeds) for seeds in state["seeds"]])


@dataclass(kw_only=True)
class ResamplingSift(Sift):
    """A sift that keeps all rows busy: at a checkpoint the chosen ones take the others' places.

    Attributes:
        choosers: one per prompt.
    """

    choosers: Sequence[Chooser]

    def __post_init__(self) -> None:
        super().__post_init__()
        # Chosen before these steps, so that nothing is left to prune after them.
        self._choices, self._ratios = frozenset(self._ratios), {}

    def before_step(self, event: StepEvent) -> Sequence[int] | None:
        """Score the candidates and give each row its parent."""
        if event.step_index not in self._choices or not self.scorer.names:
            return None
        self._close_segment("denoise", event.sample)
        self._round(event, 1.0)
        rows = []
        for index, chooser in enumerate(self.choosers):
            stage = self._stages[index][-1]
            parents = chooser.choose(stage.combined)
            self._stages[index][-1] = _with_parents(stage, parents)
            rows += [index * self.num_candidates + parent for parent in parents]
        self._show_stages()
        self._mark = time.perf_counter()
        return None if rows == list(range(len(rows))) else rows


def _with_parents(stage: Stage, parents: Sequence[int]) -> Stage:
    return replace(stage, kept=tuple(sorted(set(parents))), parents=tuple(parents))
