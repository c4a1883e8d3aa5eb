"""What a reward says of candidates after every scale, when nobody is chosen or dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensift.errors import ConfigError
from gensift.protocols import Pipeline
from gensift.randomness import candidate_seeds
from samplers.autoregressive.consistency import Floats
from samplers.autoregressive.schedule import SearchSchedule
from samplers.autoregressive.search import NextScaleSearch
from samplers.autoregressive.view import ScaleView, Selector
from samplers.scoring import RewardSpec


@dataclass(frozen=True)
class Notes:
    """A selector that scores the candidates and lets everyone go on.

    Attributes:
        scores: per scale and prompt one score for each candidate, float `(candidates,)`.
    """

    scores: list[list[Tensor]] = field(default_factory=list)

    def select(self, view: ScaleView) -> None:
        """Score the candidates of all prompts."""
        self.scores.append([scores.combined for scores in view.scores()])


class ScoreRecorder(NextScaleSearch):
    """Best-of-N that is scored after every scale.

    Attributes:
        notes: of the latest call.
    """

    def __init__(self, reward: RewardSpec, **options: Any) -> None:
        """`options` are those of best-of-N.

        Raises:
            ConfigError: an option is wrong, or there is no reward.
        """
        super().__init__(reward, **options)
        if self.reward is None:
            raise ConfigError("There is no reward to record; give one.")
        self.notes = Notes()

    def prepare(self, pipeline: Pipeline, schedule: SearchSchedule) -> None:
        """Begin new notes."""
        self.notes = Notes()

    def scored_scales(self, schedule: SearchSchedule) -> tuple[int, ...]:
        """All but the last, which every search scores."""
        return tuple(range(len(schedule.widths) - 1))

    def selectors(self, scale: int, schedule: SearchSchedule) -> Sequence[Selector]:
        """The notes."""
        return (self.notes,) if scale in self.scored_scales(schedule) else ()


def record_scores(
    pipeline: Pipeline,
    prompts: Sequence[str],
    reward: RewardSpec,
    *,
    num_candidates: int,
    seed: int = 0,
    max_rows: int | None = None,
    on_prompt: Callable[[int], None] = lambda count: None,
    **pipeline_kwargs: Any,
) -> Floats:
    """Draw candidates and score each after every scale, one prompt after the other.

    They are the candidates that best-of-N draws from the same seed.

    Args:
        pipeline: of a next-scale model.
        prompts: one or more.
        reward: what scores; several are combined by rank sum among a prompt's candidates.
        num_candidates: per prompt.
        seed: base from which the candidates' seeds derive.
        max_rows: most candidates drawn, and pictures decoded, at a time.
        on_prompt: called with 1 after each prompt.
        pipeline_kwargs: for the pipeline.

    Returns:
        float64 `(prompts, candidates, scales)`; what is not finite is -inf.

    Raises:
        UnsupportedPipelineError: the pipeline is no next-scale model.
        ConfigError: an argument is out of range.
    """
    recorder = ScoreRecorder(reward, num_candidates=num_candidates, max_rows=max_rows)
    table = []
    for index, prompt in enumerate(prompts):
        output = recorder(
            pipeline,
            prompt,
            seeds=[candidate_seeds(seed, index, num_candidates)],
            **pipeline_kwargs,
        )
        scales = [scores[0] for scores in recorder.notes.scores]
        final = torch.tensor(output.trace.prompts[0].stages[-1].combined)
        table.append(torch.stack([*scales, final], dim=1).double().numpy())
        on_prompt(1)
    return np.stack(table)
