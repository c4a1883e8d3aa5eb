"""What a next-scale search is going to do and to cost, known before it starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gensift.cost import Cost
from gensift.pipelines.next_scale.pipeline import SamplingOptions
from gensift.pipelines.next_scale.scales import ScaleSchedule
from samplers.autoregressive.schedule import SearchSchedule
from samplers.base import Plan
from samplers.output import PlannedStage


@dataclass(frozen=True, kw_only=True)
class NextScalePlan(Plan):
    """What a next-scale search is going to do.

    `cost` is the most: candidates that come out alike are scored once, so that a run may decode and
    score fewer.

    Attributes:
        num_seeds: candidates per prompt that are drawn at the first scale.
        num_scales: scales of the model.
        schedule: widths and selections.
    """

    num_seeds: int
    num_scales: int
    schedule: SearchSchedule

    @property
    def seeds_per_prompt(self) -> int:
        """Candidates that are begun: more than are drawn to the end."""
        return self.num_seeds


def planned_stages(
    schedule: SearchSchedule, num_candidates: int, num_outputs: int
) -> tuple[PlannedStage, ...]:
    """The selections, per prompt, and the scoring of what is finished.

    Args:
        schedule: widths and selections.
        num_candidates: drawn to the end.
        num_outputs: of those, returned.
    """
    last = len(schedule.widths) - 1
    selections = [
        PlannedStage(
            scale,
            last + 1,
            schedule.drawn_widths[scale] * num_candidates,
            schedule.widths[scale] * num_candidates,
        )
        for scale in schedule.selections
    ]
    return (*selections, PlannedStage(last, last + 1, num_candidates, num_outputs))


def planned_cost(
    schedule: SearchSchedule,
    scales: ScaleSchedule,
    branches: Sequence[int],
    num_finished: int,
    *,
    scored_scales: Collection[int],
    rewards: Collection[str],
    is_reduced: bool,
) -> Cost:
    """Work over all prompts.

    Args:
        schedule: widths and selections.
        scales: token grids of the model.
        branches: per scale transformer rows of one candidate: 2 with guidance.
        num_finished: candidates of all prompts that are drawn to the end.
        scored_scales: those before the last after which rewards are asked.
        rewards: names of the rewards.
        is_reduced: whether candidates on the way are decoded at reduced size.
    """
    rows = [width * num_finished for width in schedule.drawn_widths]
    decoded = sum(rows[scale] for scale in {*schedule.cluster_scales, *scored_scales})
    tokens = [
        count * row * branch
        for count, row, branch in zip(scales.token_counts, rows, branches, strict=True)
    ]
    scored = sum(rows[scale] for scale in scored_scales) + num_finished
    return Cost(
        tokens=sum(tokens),
        decodes=num_finished + decoded * (not is_reduced),
        preview_decodes=decoded * is_reduced,
        reward_calls=dict.fromkeys(rewards, scored),
    )


def branches_of(options: SamplingOptions, num_scales: int) -> list[int]:
    """Per scale transformer rows of one candidate: 2 with guidance, 1 without."""
    return [2 if options.is_guided_from(scale) else 1 for scale in range(num_scales)]
