"""What one pipeline call of a search is going to do and cost, known before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gensift.cost import Cost
from samplers.base import Plan
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.guidance import call_groups, guidance_rows_of
from samplers.diffusion.schedule import denoising_steps, num_early_scored, num_scored
from samplers.output import PlannedStage
from samplers.scoring import RewardSpec, Scorer


@dataclass(frozen=True, kw_only=True)
class DiffusionPlan(Plan):
    """The plan of a search over diffusion candidates.

    Attributes:
        num_steps: denoising steps of the loop.
        guidance_rows: denoiser rows per candidate and step.
    """

    num_steps: int
    guidance_rows: int


@dataclass(frozen=True, kw_only=True)
class CallShape:
    """The size of a search in one pipeline call, per prompt.

    Attributes:
        num_candidates: as the plan names them.
        num_rows: candidates that the pipeline call holds places for.
        num_outputs: finished samples that are handed on.
        stages: rounds of scoring.
        idle_steps: steps that candidates wait in their places without being computed.
        rows_per_step: denoiser rows of a candidate per step, on average over the loop.
    """

    num_candidates: int
    num_rows: int
    num_outputs: int
    stages: Sequence[PlannedStage]
    idle_steps: int
    rows_per_step: float

    @property
    def steps(self) -> int:
        """Denoising steps over all candidates of one prompt."""
        return denoising_steps(self.stages) - self.idle_steps


def plan_of_shape(
    call: PipelineCall,
    shape: CallShape,
    reward: RewardSpec,
    *,
    max_rows: int | None,
    is_tiny: bool,
) -> DiffusionPlan:
    """The plan of a call.

    Args:
        call: the call.
        shape: how large the search in it is.
        reward: what scores; None scores nothing.
        max_rows: most denoiser rows in one forward pass.
        is_tiny: whether a tiny decoder decodes early estimates.
    """
    prompts = len(call.prompts)
    names = Scorer(reward).names
    scored = num_scored(shape.stages) * prompts if names else 0
    by_tiny = num_early_scored(shape.stages) * prompts if names and is_tiny else 0
    per_forward = shape.num_rows * prompts * call_groups(call.bound, call.arguments)
    return DiffusionPlan(
        num_candidates=shape.num_candidates,
        num_prompts=prompts,
        num_steps=shape.stages[-1].num_inference_steps,
        guidance_rows=guidance_rows_of(call.bound, call.arguments),
        peak_rows=min(per_forward, max_rows or per_forward),
        stages=tuple(shape.stages),
        cost=Cost(
            nfe=round(shape.steps * shape.rows_per_step) * prompts,
            denoiser_calls=None,
            decodes=scored - by_tiny + shape.num_outputs * prompts,
            preview_decodes=by_tiny,
            reward_calls=dict.fromkeys(names, scored),
        ),
    )


def planned_work(shape: CallShape, num_prompts: int) -> dict[str, int]:
    """Candidates' steps and pictures that a call is going to report, over all prompts."""
    scored = num_scored(shape.stages) * num_prompts
    return {"denoise": shape.steps * num_prompts, "decode": scored, "reward": scored}
