"""The judge on latents that are pictures already, so that every score is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gensift.errors import ConfigError, RewardError
from rewards.combine import CompositeReward
from samplers.scoring import THUMBNAIL, Scorer

PROMPTS = ["a", "b", "c", "d", "e"]
PICTURES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Glass:
    """A previewer that shows latents as they are, and remembers how many at a time."""

    is_tiny = False

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def decode(self, latents: Tensor) -> Tensor:
        self.sizes.append(len(latents))
        return latents


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean((1, 2, 3))


def letter(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return torch.tensor([float(ord(prompt)) for prompt in prompts])


def score(scorer: Scorer, max_images: int | None = None, **options: Any) -> dict[str, list[float]]:
    scores = scorer.score(Glass(), PICTURES, PROMPTS, max_images, **options)  # type: ignore[arg-type]
    return {name: values.tolist() for name, values in scores.by_reward.items()}


@pytest.mark.parametrize("max_images", [None, 1, 2, 5, 9])
def test_scores_do_not_depend_on_the_batches_and_all_work_is_counted(
    max_images: int | None,
) -> None:
    scorer, glass = Scorer({"brightness": brightness, "letter": letter}), Glass()
    reports: list[tuple[str, int]] = []
    scores = scorer.score(
        glass,  # type: ignore[arg-type]
        PICTURES,
        PROMPTS,
        max_images,
        lambda event, count: reports.append((event, count)),
    )
    assert scores.by_reward["brightness"].tolist() == brightness(PICTURES, []).tolist()
    assert scores.by_reward["letter"].tolist() == [ord(prompt) for prompt in PROMPTS]
    assert all(values.dtype == torch.float32 for values in scores.by_reward.values())
    assert max(glass.sizes) == min(max_images or 5, 5) and sum(glass.sizes) == 5
    assert scorer.decodes == 5
    assert scorer.reward_calls == {"brightness": 5, "letter": 5}
    for event in ("decode", "reward"):
        assert [count for name, count in reports if name == event] == glass.sizes


def test_counts_add_up_over_rounds() -> None:
    scorer = Scorer(brightness)
    score(scorer)
    scorer.score(Glass(), PICTURES[:2], PROMPTS[:2], None)  # type: ignore[arg-type]
    assert scorer.decodes == 7
    assert scorer.reward_calls == {"brightness": 7}
    assert scorer.stopwatch.seconds.keys() == {"decode", "reward"}


class Named:
    name = "my-reward"

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        return brightness(images, prompts)


@pytest.mark.parametrize(
    ("reward", "names"),
    [
        (None, ()),
        (brightness, ("brightness",)),
        (Named(), ("my-reward",)),
        ({"one": brightness, "two": Named()}, ("one", "two")),
        (CompositeReward({"x": brightness, "y": letter}), ("x", "y")),
    ],
)
def test_scores_carry_the_names_of_the_rewards(reward: Any, names: tuple[str, ...]) -> None:
    scorer = Scorer(reward)
    assert scorer.names == names
    assert tuple(score(scorer)) == names


def test_an_empty_mapping_of_rewards_is_refused() -> None:
    with pytest.raises(ConfigError, match="reward"):
        Scorer({})


def test_a_single_reward_ranks_by_its_own_scores() -> None:
    scores = {"brightness": torch.tensor([0.3, -2.0, 7.0])}
    assert torch.equal(Scorer(brightness).combine(scores), scores["brightness"])
    assert torch.equal(Scorer({"brightness": brightness}).combine(scores), scores["brightness"])


@pytest.mark.parametrize("spoiled", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "reward",
    [
        {"x": brightness},
        {"x": brightness, "y": letter},
        CompositeReward({"x": brightness, "y": letter}),
        CompositeReward({"x": brightness, "y": letter}, rule="rank-sum"),
    ],
)
def test_what_is_not_finite_ranks_last(reward: Any, spoiled: float) -> None:
    scorer = Scorer(reward)
    columns = {"x": torch.tensor([1.0, spoiled, 3.0]), "y": torch.tensor([2.0, 9.0, 5.0])}
    combined = scorer.combine({name: columns[name] for name in scorer.names}).tolist()
    assert combined[1] == -math.inf
    assert combined[2] > combined[0] > -math.inf


def test_several_rewards_add_up_their_ranks() -> None:
    scores = {"x": torch.tensor([5.0, 1.0, 3.0, 2.0]), "y": torch.tensor([0.1, 0.4, 0.3, 0.2])}
    # Ranks 3 0 2 1 and 0 3 2 1.
    assert Scorer({"x": brightness, "y": letter}).combine(scores).tolist() == [3, 3, 4, 2]


def test_a_composite_brings_its_own_rule_and_weights() -> None:
    scores = {"x": torch.tensor([5.0, 1.0, 3.0]), "y": torch.tensor([0.0, 1.0, 0.5])}
    composite = CompositeReward({"x": brightness, "y": letter}, weights={"x": 1.0, "y": 3.0})
    # Both columns are (high, low, middle) up to sign, so z is that of (1, -1, 0) times 1 - 3.
    unit = 1 / math.sqrt(2 / 3)
    assert Scorer(composite).combine(scores).tolist() == pytest.approx([-2 * unit, 2 * unit, 0.0])


@pytest.mark.parametrize(
    "reward", [{"x": brightness, "y": letter}, CompositeReward({"x": brightness, "y": letter})]
)
def test_rewards_are_combined_over_all_candidates_not_per_batch(reward: Any) -> None:
    scorer = Scorer(reward)
    whole, parts = (
        scorer.combine(scorer.score(Glass(), PICTURES, PROMPTS, size).by_reward)  # type: ignore[arg-type]
        for size in (None, 1)
    )
    assert torch.equal(whole, parts)
    assert len(set(whole.tolist())) > 1


def test_a_plain_list_of_numbers_is_a_verdict_too() -> None:
    def listing(images: Tensor, prompts: Sequence[str]) -> list[float]:
        return [float(ord(prompt)) for prompt in prompts]

    assert score(Scorer(listing), max_images=2)["listing"] == [  # type: ignore[arg-type]
        ord(prompt) for prompt in PROMPTS
    ]


@pytest.mark.parametrize("returned", [torch.zeros(5, 1), torch.zeros(4), None, "good"])
def test_a_reward_that_returns_no_score_per_picture_is_refused(returned: Any) -> None:
    def wrong(images: Tensor, prompts: Sequence[str]) -> Any:
        return returned

    with pytest.raises(RewardError, match=r"'wrong' returned .* of shape \(5,\)"):
        score(Scorer(wrong))


def test_previews_show_each_row_once() -> None:
    pixels = torch.arange(5 * 3 * 8 * 8).reshape(5, 3, 8, 8) % 256
    scorer = Scorer(brightness, keep_previews=True)
    scores = scorer.score(Glass(), pixels / 255, PROMPTS, 2)  # type: ignore[arg-type]
    assert len(scores.thumbnails) == 5
    for picture, expected in zip(scores.thumbnails, pixels, strict=True):
        rgb = [picture.getpixel((x, y)) for y in range(8) for x in range(8)]
        assert rgb == [tuple(p) for p in expected.permute(1, 2, 0).reshape(-1, 3).tolist()]


def test_previews_are_small_and_only_kept_on_request() -> None:
    wide = torch.full((1, 3, 4, 4 * THUMBNAIL), 0.5)
    scorer = Scorer(brightness, keep_previews=True)
    scores = scorer.score(Glass(), wide, ["a"], None)  # type: ignore[arg-type]
    assert scores.thumbnails[0].size == (THUMBNAIL, 1)
    assert Scorer(brightness).score(Glass(), wide, ["a"], None).thumbnails == []  # type: ignore[arg-type]
