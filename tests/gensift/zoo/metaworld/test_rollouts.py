"""Rollouts of many robots in a world whose course is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy_world import NUM_GOALS, ToyArm, toy_goals
from torch import Tensor

from gensift.errors import UnknownNameError
from gensift.pipelines.policy.control import History
from gensift.zoo.metaworld import rollouts
from gensift.zoo.metaworld.rollouts import Arena
from gensift.zoo.metaworld.tasks import OBSERVATION_DIM, TASKS, features


class Straight:
    """A policy that goes on along the first axis, at full speed, four actions at a time."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.seen: list[Tensor] = []
        self.drawn: dict[float, list[float]] = {}

    def histories(self, count: int) -> list[History]:
        return [History(2) for _ in range(count)]

    def actions(
        self, histories: Sequence[History], generators: Sequence[torch.Generator]
    ) -> Tensor:
        self.batches.append(len(histories))
        seen = torch.stack([history.stacked() for history in histories])
        self.seen.append(seen)
        for row, generator in zip(seen, generators, strict=True):
            goal = round(float(row[-1, 18]), 3)
            self.drawn.setdefault(goal, []).append(float(torch.rand((), generator=generator)))
        chunk = torch.zeros(len(histories), 4, 4)
        chunk[..., 0] = 1.5  # more than the robot can do
        return chunk


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> Arena:
    monkeypatch.setattr(rollouts, "goals_of", toy_goals)
    return Arena("reach", 0)


def run(arena: Arena, goals: Sequence[int], **kwargs: Any) -> tuple[Any, Straight]:
    policy: Any = Straight()
    return arena.run(policy, goals, **kwargs), policy


def test_episodes_end_at_their_goals_and_leave_the_batch(arena: Arena) -> None:
    found, policy = run(arena, range(NUM_GOALS), max_steps=10)
    # Goals lie 2, 4, 6, 8, 10 and 12 steps away, and chunks have four.
    assert [episode.steps for episode in found.episodes] == [2, 4, 6, 8, 10, 10]
    assert [episode.is_success for episode in found.episodes] == [True] * 5 + [False]
    assert found.success == 5 / 6
    assert policy.batches == list(found.plan_rows) == [6, 4, 2]
    assert len(found.plan_seconds) == 3


def test_a_robot_sees_its_last_two_states_and_acts_within_its_limits(arena: Arena) -> None:
    _, policy = run(arena, [5], max_steps=8)
    hands = [[row[0].item() for row in batch[0]] for batch in policy.seen]
    assert np.allclose(hands, [[0.0, 0.0], [0.3, 0.4]])
    environment: ToyArm = arena._environments[0]
    assert np.abs(environment.given).max() == 1.0


def test_a_robot_draws_the_same_noise_whoever_acts_beside_it(arena: Arena) -> None:
    _, together = run(arena, range(NUM_GOALS), seed=3)
    _, alone = run(arena, [4], seed=3)
    (drawn,) = alone.drawn.values()
    assert together.drawn[1.0] == drawn
    assert len({values[0] for values in together.drawn.values()}) == NUM_GOALS
    _, other = run(arena, [4], seed=4)
    assert other.drawn[1.0] != drawn


def test_seeds_may_be_given(arena: Arena) -> None:
    found, policy = run(arena, [0, 1], seeds=[7, 8])
    assert [episode.seed for episode in found.episodes] == [7, 8]
    first = float(torch.rand((), generator=torch.Generator().manual_seed(7)))
    assert policy.drawn[0.2][0] == first


def test_frames_are_shown_before_the_first_action_and_after_each(arena: Arena) -> None:
    shown: list[tuple[int, float, float]] = []

    def see(number: int, environment: Any, observation: Any) -> None:
        shown.append((number, float(environment.hand[0]), float(observation[0])))

    run(arena, [0, 1], on_frame=see)
    assert [hand for number, hand, _ in shown if number == 0] == pytest.approx([0.0, 0.1, 0.2])
    assert len([1 for number, *_ in shown if number == 1]) == 5
    assert all(hand == pytest.approx(seen) for _, hand, seen in shown)


def test_features_hold_the_state_the_goal_and_the_ways_between() -> None:
    observation = np.arange(39.0)
    found = features("push", observation)
    assert found.dtype == np.float32 and found.shape == (OBSERVATION_DIM,)
    assert found[:18].tolist() == list(range(18))
    assert found[18:21].tolist() == [36, 37, 38]
    assert found[21:30].tolist() == [4.0] * 3 + [36.0] * 3 + [32.0] * 3
    near = np.zeros(39)
    near[4:7] = 0.05
    assert features("push", near)[30:39] == pytest.approx(
        [np.tanh(0.5)] * 3 + [0.0] * 3 + [-np.tanh(0.5)] * 3
    )
    assert found[39:].tolist() == [float(task == "push") for task in TASKS]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'push'"):
        Arena("pusch", 0)
