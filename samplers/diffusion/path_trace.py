"""The trace of a search over paths: candidates numbered on from round to round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gensift.trace import PromptTrace, Stage, Trace
from samplers.output import PromptResult, SamplerOutput


@dataclass(frozen=True)
class Branchings:
    """How the branches of one prompt came about.

    Attributes:
        seeds: per round and slot the seed of the noise that made the branch.
        sources: per round, for each slot the slot of the round before that it was made from (before
            the first round: the path).
    """

    seeds: Sequence[Sequence[int]]
    sources: Sequence[Sequence[int]]


def numbered(
    output: SamplerOutput, branchings: Sequence[Branchings], branches: int
) -> SamplerOutput:
    """What a search over paths found, its candidates numbered over all rounds.

    Args:
        output: in which candidates are slots, the same in every round.
        branchings: per prompt.
        branches: slots per path.
    """
    prompts = zip(output.trace.prompts, branchings, strict=True)
    results = zip(output.results, output.trace.prompts, branchings, strict=True)
    return replace(
        output,
        trace=Trace(prompts=tuple(_trace(trace, made, branches) for trace, made in prompts)),
        results=tuple(_result(result, trace, made) for result, trace, made in results),
    )


def _trace(trace: PromptTrace, made: Branchings, branches: int) -> PromptTrace:
    size = len(trace.seeds)
    paths = size // branches
    seeds = list(trace.seeds[::branches])
    parents: list[int | None] = [None] * paths
    for number, sources in enumerate(made.sources):
        before = 0 if number == 0 else paths + (number - 1) * size
        parents += [before + source for source in sources]
        seeds += made.seeds[number]
    stages = [
        numbered_stage(stage, number, size, branches)
        for number, stage in enumerate(trace.stages, 1)
    ]
    return replace(trace, seeds=tuple(seeds), parents=tuple(parents), stages=tuple(stages))


def numbered_stage(stage: Stage, number: int, size: int, branches: int) -> Stage:
    """A stage of round `number`, from 1, with its slots as candidates of the whole search.

    Args:
        stage: whose candidates are slots.
        number: of the round.
        size: slots per round.
        branches: slots per path.
    """
    base = size // branches + (number - 1) * size
    return replace(
        stage,
        round=number,
        alive=tuple(base + slot for slot in stage.alive),
        kept=tuple(base + slot for slot in stage.kept),
        # Whom a branch came from is said by the parents of the whole trace.
        parents=None,
        previews={base + slot: image for slot, image in stage.previews.items()},
    )


def _result(result: PromptResult, trace: PromptTrace, made: Branchings) -> PromptResult:
    """A sample's seed is that of its last noise."""
    slots = {seed: slot for slot, seed in enumerate(trace.seeds)}
    seeds = tuple(made.seeds[-1][slots[seed]] for seed in result.seeds)
    return replace(result, seeds=seeds, first_reward=None)
