"""The trace of a search while it is being made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gensift.trace import PromptTrace, Stage, Trace


class TraceLog:
    """Collects the stages of each prompt.

    Attributes:
        stages: per prompt, those so far.
    """

    def __init__(self, prompts: Sequence[str], seeds: Sequence[Sequence[int]]) -> None:
        self._prompts, self._seeds = prompts, seeds
        self.stages: list[list[Stage]] = [[] for _ in prompts]

    @property
    def num_stages(self) -> int:
        """Stages of every prompt so far."""
        return len(self.stages[0])

    def add(
        self, prompt_index: int, stage: Stage, parents: Mapping[int, int], *, copies: bool = False
    ) -> None:
        """Note a stage and who went on after it.

        Args:
            prompt_index: whose candidates they are.
            stage: without those who were kept.
            parents: by place, who goes on there.
            copies: whether the search copies candidates, so that everybody's parent is of interest.
        """
        kept = tuple(sorted(set(parents.values())))
        moved = copies or any(place != parent for place, parent in parents.items())
        named = tuple(parents.get(place) for place in stage.alive) if moved else None
        self.stages[prompt_index].append(replace(stage, kept=kept, parents=named))

    def trace(self) -> Trace:
        """Who was alive at each stage, how they scored, who was kept."""
        return Trace(
            prompts=tuple(
                PromptTrace(
                    prompt=prompt, prompt_index=index, seeds=tuple(seeds), stages=tuple(stages)
                )
                for index, (prompt, seeds, stages) in enumerate(
                    zip(self._prompts, self._seeds, self.stages, strict=True)
                )
            )
        )
