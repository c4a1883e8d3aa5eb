"""From finished candidates to the samples of a prompt, best first."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gensift.pipelines.next_scale.pipeline import convert_pictures
from samplers.autoregressive.population import Population
from samplers.autoregressive.stage_scoring import CandidateScores
from samplers.output import PromptResult


def ranking(combined: Tensor) -> list[int]:
    """Positions from best to worst score, of `combined` `(candidates,)`; ties by position."""
    rewards = combined.tolist()
    return sorted(range(len(rewards)), key=lambda at: (-rewards[at], at))


def unranked_result(population: Population, pictures: Tensor, output_type: str) -> PromptResult:
    """All finished candidates of a prompt in order, where no reward ranks them.

    Args:
        population: of the prompt.
        pictures: `(candidates, 3, height, width)` in [0, 1].
        output_type: "pil", "np" or "pt".
    """
    return PromptResult(
        prompt=population.prompt,
        samples=list(convert_pictures(pictures, output_type)),
        rewards=(),
        all_rewards=(),
        seeds=tuple(population.seeds[place] for place in population.places),
    )


def ranked_result(
    population: Population,
    scores: CandidateScores,
    best: Sequence[int],
    pictures: Tensor,
    output_type: str,
) -> PromptResult:
    """The best finished candidates of a prompt.

    Args:
        population: of the prompt.
        scores: of all its finished candidates.
        best: positions of those that are returned, best first.
        pictures: of all, `(candidates, 3, height, width)` in [0, 1].
        output_type: "pil", "np" or "pt".
    """
    images = convert_pictures(pictures, output_type)
    rewards, places = scores.combined.tolist(), population.places
    is_first_left = places[0] == 0 and 0 in population.originals
    return PromptResult(
        prompt=population.prompt,
        samples=[images[at] for at in best],
        rewards=tuple(rewards[at] for at in best),
        all_rewards=tuple(
            {name: float(values[at]) for name, values in scores.by_reward.items()} for at in best
        ),
        seeds=tuple(population.seeds[places[at]] for at in best),
        first_reward=rewards[0] if is_first_left else None,
        mean_reward=sum(rewards) / len(rewards),
    )
