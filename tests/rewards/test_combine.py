import math

import pytest
import torch

from gensift.errors import ConfigError, RewardError
from rewards.combine import CompositeReward, rank_sum, weighted_z_score

NAN, INF = math.nan, math.inf


def scores(**lists):
    return {name: torch.tensor(values) for name, values in lists.items()}


def red(images, prompts):
    return images[:, 0].mean((1, 2))


def green(images, prompts):
    return images[:, 1].mean((1, 2))


def test_rank_sum_by_hand():
    total = rank_sum(scores(a=[0.3, 0.1, 0.9], b=[5.0, 7.0, 6.0]))
    assert total.tolist() == [1 + 0, 0 + 2, 2 + 1] and total.dtype == torch.float32


def test_rank_sum_shares_ranks_between_ties():
    assert rank_sum(scores(a=[1.0, 0.0, 1.0, 2.0])).tolist() == [1.5, 0.0, 1.5, 3.0]
    assert rank_sum(scores(a=[4.0, 4.0, 4.0])).tolist() == [1.0, 1.0, 1.0]


def test_rank_sum_does_not_depend_on_order_or_scale():
    table = scores(a=[0.3, 0.1, 0.3, 0.8], b=[1.0, 2.0, 2.0, 0.0])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {name: values[order] * 100 - 7 for name, values in table.items()}
    assert torch.equal(rank_sum(shuffled), rank_sum(table)[order])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("combine", [rank_sum, weighted_z_score])
def test_non_finite_candidates_are_out_and_take_no_rank(combine, bad):
    total = combine(scores(a=[0.3, bad, 0.1, 0.9], b=[1.0, 9.0, 3.0, 2.0]))
    clean = combine(scores(a=[0.3, 0.1, 0.9], b=[1.0, 3.0, 2.0]))
    assert total[1] == -INF
    assert torch.equal(total[[0, 2, 3]], clean)
    assert combine(scores(a=[bad, bad])).tolist() == [-INF, -INF]


def test_weighted_z_score_by_hand():
    table = scores(a=[1.0, 2.0, 3.0], b=[10.0, 30.0, 20.0])
    unit = math.sqrt(1.5)  # (3 - 2) / population deviation of 1, 2, 3
    expected = [-unit - 0.5 * unit, 0.5 * unit, unit]
    assert weighted_z_score(table, {"b": 0.5}).tolist() == pytest.approx(expected)
    assert weighted_z_score(table).tolist() == pytest.approx([-2 * unit, unit, unit])


def test_z_score_of_equal_scores_is_zero():
    # 0.1 in float32 has a mean that rounding may move away from it.
    assert weighted_z_score(scores(a=[0.1] * 7)).tolist() == [0.0] * 7
    assert weighted_z_score(scores(a=[5.0])).tolist() == [0.0]


def test_combining_refuses_what_does_not_fit():
    with pytest.raises(RewardError, match="at least one reward"):
        rank_sum({})
    with pytest.raises(RewardError, match="same number"):
        rank_sum(scores(a=[1.0], b=[1.0, 2.0]))
    with pytest.raises(ConfigError, match="weights name c"):
        weighted_z_score(scores(a=[1.0]), {"c": 1.0})
    with pytest.raises(ConfigError, match="not finite"):
        weighted_z_score(scores(a=[1.0]), {"a": NAN})


@pytest.fixture
def images():
    result = torch.zeros(5, 3, 2, 2)
    result[:, 0] = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.4])[:, None, None]
    result[:, 1] = torch.tensor([0.7, 0.1, 0.8, 0.3, 0.2])[:, None, None]
    return result


@pytest.mark.parametrize("rule", ["z-score", "rank-sum"])
def test_composite_combines_within_each_prompt(images, rule):
    prompts = ["x", "y", "x", "y", "x"]
    reward = CompositeReward({"red": red, "green": green}, rule=rule)
    total = reward(images, prompts)
    for rows in ([0, 2, 4], [1, 3]):
        alone = reward(images[rows], [prompts[row] for row in rows])
        assert torch.equal(total[rows], alone)
    if rule == "rank-sum":
        assert total.tolist() == [0 + 1, 1 + 0, 2 + 2, 0 + 1, 1 + 0]


def test_composite_weights_scores_and_name(images):
    reward = CompositeReward({"red": red, "green": green}, weights={"green": 2.0})
    prompts = ["x"] * 5
    table = reward.scores(images, prompts)
    assert set(table) == {"red", "green"} and torch.equal(table["red"], red(images, prompts))
    expected = weighted_z_score(table, {"green": 2.0})
    assert torch.equal(reward(images, prompts), expected)
    assert torch.equal(reward.combine(table), expected)
    assert reward.name == "z-score(red, green)"


def test_composite_with_nan_part(images):
    def broken(images, prompts):
        return [NAN, 1.0, 2.0, 3.0, 4.0]

    total = CompositeReward({"red": red, "broken": broken})(images, ["x"] * 5)
    assert total[0] == -INF and total[1:].isfinite().all()


def test_composite_refuses_bad_settings():
    with pytest.raises(ConfigError, match="no parts"):
        CompositeReward({})
    with pytest.raises(ConfigError, match="allowed: z-score, rank-sum"):
        CompositeReward({"red": red}, rule="minimum")
    with pytest.raises(ConfigError, match="leave weights out"):
        CompositeReward({"red": red}, {"red": 2.0}, rule="rank-sum")
    with pytest.raises(ConfigError, match="weights name blue"):
        CompositeReward({"red": red}, {"blue": 2.0})
