"""Pairing what a pipeline returned with the seeds and scores of its candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gensift.protocols import Sample
from gensift.trace import Stage
from samplers.diffusion.row_numbers import RowNumbers
from samplers.output import PromptResult


def results_of(
    samples: Sequence[Sample],
    order: Sequence[int],
    numbers: RowNumbers,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    stages: Sequence[Sequence[Stage]],
) -> tuple[PromptResult, ...]:
    """One result per prompt.

    Args:
        samples: what the pipeline of this process returned, in the order that was handed on.
        order: rows that were handed on, best first per prompt, those of other processes too.
        numbers: of the rows.
        prompts: of the call.
        seeds: per prompt and candidate.
        stages: per prompt; the last one has the final scores, none where nothing was scored.
    """
    results, start = [], 0
    for index, prompt in enumerate(prompts):
        picked = numbers.candidates_of(order, index)
        count = len(numbers.places_of(numbers.row(index, candidate) for candidate in picked))
        own = _in_their_places(picked, samples[start : start + count], numbers.own)
        chosen = tuple(seeds[index][candidate] for candidate in picked)
        results.append(_result(prompt, picked, own, chosen, stages[index]))
        start += count
    return tuple(results)


def _in_their_places(
    picked: Sequence[int], samples: Sequence[Sample], own: Sequence[int]
) -> Sequence[Sample]:
    """The samples of this process in their places; None where another one has the sample."""
    if len(samples) == len(picked):
        return samples
    left = iter(samples)
    return [next(left) if candidate in own else None for candidate in picked]


def _result(
    prompt: str,
    picked: Sequence[int],
    samples: Sequence[Sample],
    seeds: tuple[int, ...],
    stages: Sequence[Stage],
) -> PromptResult:
    if not stages:
        return PromptResult(prompt=prompt, samples=samples, rewards=(), all_rewards=(), seeds=seeds)
    final = stages[-1]
    place = {candidate: position for position, candidate in enumerate(final.alive)}
    finite = [value for value in final.combined if math.isfinite(value)]
    return PromptResult(
        prompt=prompt,
        samples=samples,
        rewards=tuple(final.combined[place[c]] for c in picked),
        all_rewards=tuple(
            {name: values[place[c]] for name, values in final.scores.items()} for c in picked
        ),
        seeds=seeds,
        first_reward=final.combined[place[0]] if 0 in place else None,
        mean_reward=sum(finite) / len(finite),
    )
