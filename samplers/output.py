"""What every sampler takes part in and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gensift.cost import Cost
from gensift.trace import Stage, Trace

Progress = Callable[[str, int, int], None]
"""Called as `progress(event, done, total)`.

Events are "denoise" (steps), "scale" (of next-scale models), "decode" and "reward".
"""

OnStage = Callable[[int, Stage], None]
"""Called as `on_stage(prompt_index, stage)` as soon as candidates were judged and chosen among.

The stage is as in the trace, but at the last stage of a round of a search that makes several, what
is kept may still change by what later rounds find. An exception ends the search.
"""


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """The sifted samples of one prompt, best first.

    Attributes:
        prompt: the prompt.
        samples: as the pipeline returns them (PIL pictures unless `output_type` says otherwise).
        rewards: the score each sample was ranked by.
        all_rewards: per sample the score of each single reward.
        seeds: per sample the seed that reproduces it in a plain pipeline call; with a sampler
            that copies candidates (`is_reproducible` is false) just that of its place.
        first_reward: score of candidate 0 if it was finished, else None.
        mean_reward: mean score of the finished candidates; None without a reward.
    """

    prompt: str
    samples: Sequence[Any] = field(repr=False)
    rewards: tuple[float, ...]
    all_rewards: tuple[dict[str, float], ...]
    seeds: tuple[int, ...]
    first_reward: float | None = None
    mean_reward: float | None = None


@dataclass(frozen=True, kw_only=True)
class SamplerOutput:
    """What a sampler returns: one `PromptResult` per prompt, what it cost, and how it came about.

    `images`, `samples`, `seeds` and `rewards` run over the results in the order of the prompts,
    best first within each, so `images[0]` is the winner of the first prompt.
    """

    results: tuple[PromptResult, ...]
    cost: Cost
    trace: Trace

    @property
    def samples(self) -> list[Any]:
        """All samples."""
        return [sample for result in self.results for sample in result.samples]

    @property
    def images(self) -> list[Any]:
        """All samples, under the name that picture pipelines use."""
        return self.samples

    @property
    def seeds(self) -> list[int]:
        """Seed of each sample."""
        return [seed for result in self.results for seed in result.seeds]

    @property
    def rewards(self) -> list[float]:
        """Score of each sample."""
        return [reward for result in self.results for reward in result.rewards]


@dataclass(frozen=True)
class PlannedStage:
    """One round of scoring: `alive` candidates are scored after a step, `kept` go on.

    Searches that make several rounds number them by `round`, the first one 0.
    """

    step_index: int
    num_inference_steps: int
    alive: int
    kept: int
    round: int | None = None
