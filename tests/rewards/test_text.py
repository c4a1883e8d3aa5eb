"""Any function of texts and prompts is a reward, and what it returns is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gensift.errors import RewardError
from rewards.registry import load_reward
from rewards.text import call_text_reward

TEXTS, PROMPTS = ("a b c", "", "d"), ("one", "two", "three")


def test_it_gets_lists_of_texts_and_their_prompts() -> None:
    asked: list[tuple[Any, Any]] = []

    def reward(texts: Sequence[str], prompts: Sequence[str]) -> Tensor:
        asked.append((texts, prompts))
        return torch.tensor([len(text) for text in texts])

    found = call_text_reward(reward, TEXTS, PROMPTS)
    assert asked == [(list(TEXTS), list(PROMPTS))]
    assert found.dtype == torch.float32 and found.tolist() == [5.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1.0, 2.0, 3.0]),
        torch.tensor([1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True),
    ],
)
def test_numbers_of_any_kind_will_do(returned: Any) -> None:
    found = call_text_reward(lambda texts, prompts: returned, TEXTS, PROMPTS)
    assert found.tolist() == [1.0, 2.0, 3.0]
    assert found.dtype == torch.float32 and not found.requires_grad


@pytest.mark.parametrize(
    "returned", [None, "good", [1.0, 2.0], torch.tensor(1.0), torch.ones(3, 1), [1, "a", 2]]
)
def test_anything_else_is_one_line(returned: Any) -> None:
    def opinion(texts: Sequence[str], prompts: Sequence[str]) -> Any:
        return returned

    with pytest.raises(
        RewardError, match=r"'opinion' returned .* float tensor of shape \(3,\)"
    ) as e:
        call_text_reward(opinion, TEXTS, PROMPTS)
    assert "\n" not in str(e.value)


def test_not_a_number_is_left_to_the_sampler() -> None:
    found = call_text_reward(lambda texts, prompts: [1.0, float("nan"), 2.0], TEXTS, PROMPTS)
    assert found.isnan().tolist() == [False, True, False]


def test_rewards_of_countdown_judge_texts() -> None:
    reward = load_reward("countdown")
    found = call_text_reward(reward, ["15 + 7 * 3", "3 + 7"], ["use 3 7 15 to make 36"] * 2)
    assert found.tolist() == [1.0, 0.0]


def test_rewards_of_pictures_refuse_texts() -> None:
    for name in ("shapes-verifier", "shapes-clip"):
        with pytest.raises(RewardError) as caught:
            call_text_reward(load_reward(name), ["a text"], ["a red circle"])
        assert "images hold str; give one tensor or a list of PIL pictures" in str(caught.value)
