"""Searches that copy good candidates over bad ones, on the way from noise to picture.

Before a chosen step every candidate's clean-picture estimate is scored and each row is given a
parent, whose latents it takes over; then all rows make the step with noise of their own, so copies
part at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, TypeVar

from gensift.denoising.scheduler_rows import check_copyable
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.config import ResamplingConfig
from samplers.diffusion.flow_sde import flow_sde
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.stochastic import wants_flow_sde
from samplers.diffusion.strategy import Selection, SelectionStrategy, StageScores

ResamplingConfigT = TypeVar("ResamplingConfigT", bound=ResamplingConfig)


class Resampling(SelectionStrategy):
    """Gives every candidate a parent before a step; all places stay taken."""

    is_before_step: ClassVar[bool] = True

    @abstractmethod
    def parents(self, rewards: Sequence[float]) -> list[int]:
        """The parent of each candidate, given their newest rewards; -inf must have no heirs."""

    def select(self, scores: StageScores) -> Selection:
        """See `SelectionStrategy`."""
        return Selection(dict(enumerate(self.parents(scores.combined))))


class ResamplingSearch(DiffusionSearch[ResamplingConfigT]):
    """A search whose strategy copies candidates; needs steps that draw noise."""

    is_reproducible: ClassVar[bool] = False

    def check(self, call: PipelineCall, num_candidates: int) -> None:
        """See `DiffusionSearch`.

        Raises:
            UnsupportedPipelineError: the solver is deterministic, or its rows cannot be copied.
        """
        wants_flow_sde(call.bound.scheduler, call.arguments, self.config.sde)
        check_copyable(call.bound.scheduler)
        super().check(call, num_candidates)

    def solver(self, call: PipelineCall) -> AbstractContextManager[None]:
        """Random steps for a flow model; other solvers must have their own."""
        if not wants_flow_sde(call.bound.scheduler, call.arguments, self.config.sde):
            return nullcontext()
        seeds = [seed for group in call.seeds for seed in group]
        return flow_sde(call.bound.scheduler, seeds, self.config.sde_scale)
