"""The reward of Countdown: whether an answer solves the problem that its prompt tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gensift.errors import RewardError
from gensift.zoo.countdown.checker import is_right
from gensift.zoo.countdown.problems import MAX_NUMBER, MAX_RESULT, Problem, parse_problem


class CountdownReward:
    """1.0 for a right answer, 0.0 for any other text. It judges texts, not pictures.

    It also judges the benchmark: a search that optimises it knows the solution when it sees it.
    """

    name = "countdown"

    def __call__(self, texts: Sequence[str], prompts: Sequence[str], /) -> Tensor:
        """Score answers.

        Args:
            texts: `batch` expressions, such as "( 15 - 3 ) * 3".
            prompts: `batch` problems, such as "use 3 3 15 to make 36".

        Returns:
            float32 `(batch,)` on the CPU.

        Raises:
            RewardError: no list of texts, another number of prompts, or a prompt that is no
                Countdown problem.
        """
        _check(texts, prompts)
        pairs = zip(map(_read, prompts), texts, strict=True)
        scores = [is_right(problem, text) for problem, text in pairs]
        return torch.tensor(scores, dtype=torch.float32)


def load_countdown(*, device: str = "cpu") -> CountdownReward:
    """Load the checker; it always runs on the CPU, whatever `device` is."""
    return CountdownReward()


def _check(texts: Any, prompts: Any) -> None:
    is_listed = isinstance(texts, Sequence) and not isinstance(texts, str)
    if not is_listed or not all(isinstance(text, str) for text in texts):
        raise RewardError(
            f"The countdown reward was given {type(texts).__name__}; it judges a list of texts."
        )
    if isinstance(prompts, str) or len(prompts) != len(texts):
        given = "one string" if isinstance(prompts, str) else len(prompts)
        raise RewardError(
            f"{len(texts)} texts came with {given} as prompts; give a list with one prompt for "
            "each."
        )


def _read(prompt: str) -> Problem:
    problem = parse_problem(prompt)
    if problem is None:
        raise RewardError(
            f"Prompt {prompt!r} is no Countdown problem; write 'use 3 7 15 to make 36', three "
            f"numbers of 1 to {MAX_NUMBER} and a target of 1 to {MAX_RESULT}."
        )
    return problem
