"""Judging texts: any function of texts and prompts is a reward for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from rewards.protocol import check_scores

TextReward = Callable[[Sequence[str], Sequence[str]], Tensor]
"""(texts, one prompt for each) -> float32 `(batch,)`, higher is better."""


def call_text_reward(reward: Any, texts: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """Call a reward on texts and check what it returns: float32 `(batch,)` on the CPU.

    Raises:
        RewardError: it refuses the texts, or returns something else.
    """
    return check_scores(reward, reward(list(texts), list(prompts)), len(texts))
