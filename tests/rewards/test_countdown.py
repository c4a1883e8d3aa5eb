"""The checker as a reward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gensift.errors import ConfigError, RewardError
from gensift.zoo.countdown.checker import solutions
from gensift.zoo.countdown.split import validation_problems
from rewards.registry import load_reward

PROMPT = "use 3 7 15 to make 36"


@pytest.fixture(scope="module")
def reward() -> Any:
    return load_reward("countdown")


def test_right_answers_score_one_and_others_zero(reward: Any) -> None:
    texts = ["( 3 * 7 ) + 15", "15+3*7", "( 3 + 7 ) + 15", "", "nonsense"]
    scores = reward(texts, [PROMPT] * 5)
    assert scores.dtype == torch.float32 and scores.tolist() == [1, 1, 0, 0, 0]
    assert reward.name == "countdown"


def test_each_text_is_judged_by_its_own_prompt(reward: Any) -> None:
    problems = validation_problems()[:20]
    texts = [min(solutions(problem)) for problem in problems]
    prompts = [problem.text for problem in problems]
    assert reward(texts, prompts).tolist() == [1.0] * 20
    alone = [float(reward([t], [p])) for t, p in zip(texts[1:] + texts[:1], prompts, strict=True)]
    assert reward(texts[1:] + texts[:1], prompts).tolist() == alone
    assert sum(alone) < 20


def test_prompts_may_be_written_freely(reward: Any) -> None:
    assert reward(["15 + 3 * 7"], [" USE 15 7  3 to make 36"]).tolist() == [1.0]


def test_no_texts_no_scores(reward: Any) -> None:
    assert reward([], []).shape == (0,)


@pytest.mark.parametrize(
    ("texts", "prompts", "message"),
    [
        (["3"], ["a red circle"], r"'a red circle' is no Countdown problem; write 'use 3 7 15"),
        (["3"], ["use 3 7 15 to make 200"], "is no Countdown problem"),
        (["3", "4"], [PROMPT], "2 texts came with 1 as prompts"),
        (["3"], PROMPT, "1 texts came with one string as prompts"),
        ("3", [PROMPT], "was given str; it judges a list of texts"),
        (torch.zeros(1, 3, 8, 8), [PROMPT], "was given Tensor; it judges a list of texts"),
        ([b"3"], [PROMPT], "was given list; it judges a list of texts"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    reward: Any, texts: Any, prompts: Any, message: str
) -> None:
    with pytest.raises(RewardError, match=message) as caught:
        reward(texts, prompts)
    assert "\n" not in str(caught.value)


def test_it_takes_no_options() -> None:
    with pytest.raises(ConfigError, match="It takes: none"):
        load_reward("countdown", scale=2)
