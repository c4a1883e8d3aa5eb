"""Demonstrations: what is kept of an expert in a known world, and Meta-World's own experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy_world import NUM_GOALS, toy_goals

from gensift.errors import ConfigError
from gensift.zoo.metaworld import demonstrations
from gensift.zoo.metaworld.demonstrations import record
from gensift.zoo.metaworld.tasks import TASKS, TEST_SEED, TRAIN_SEEDS, VALIDATION_SEED, goals_of


class Expert:
    """Goes straight to the goal, and asks for more than is possible."""

    def get_action(self, observation: Any) -> Any:
        return np.append(20 * (observation[36:39] - observation[:3]), 0.0)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstrations, "goals_of", toy_goals)
    monkeypatch.setattr(demonstrations, "_expert", lambda task: Expert())


def test_the_experts_own_actions_are_kept_clipped(toy: None, tmp_path: Path) -> None:
    found = record(tmp_path, seeds=[0])
    assert len(found) == len(TASKS) * NUM_GOALS
    for number, episode in enumerate(found[:NUM_GOALS]):
        hand, goal = episode.observations[:, :3], episode.observations[:, 18:21]
        wanted = np.clip(20 * (goal - hand), -1, 1)
        assert np.allclose(episode.actions[:, :3], wanted, atol=1e-5)
        moved = np.diff(hand, axis=0)
        follows = np.allclose(moved, 0.1 * episode.actions[:-1, :3], atol=1e-6)
        # Every other episode is disturbed.
        assert follows == (number % 2 == 0)


def test_what_was_recorded_is_read_again(toy: None, tmp_path: Path) -> None:
    first, second = record(tmp_path, seeds=[0]), record(tmp_path, seeds=[5, 6])
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.observations, other.observations)
        assert np.array_equal(one.actions, other.actions)


def test_a_damaged_file_is_named(toy: None, tmp_path: Path) -> None:
    (tmp_path / "reach.npz").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"reach\.npz is damaged"):
        record(tmp_path, seeds=[0])


def test_goals_for_training_choosing_and_reporting_differ() -> None:
    pytest.importorskip("metaworld")
    import pickle

    seen = []
    for seed in (TRAIN_SEEDS[0], VALIDATION_SEED, TEST_SEED):
        goals = [pickle.loads(goal.data)["rand_vec"] for goal in goals_of("reach", seed).goals]
        seen.append({tuple(np.round(goal, 6)) for goal in goals})
    assert [len(goals) for goals in seen] == [50, 50, 50]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_an_expert_of_meta_world_succeeds_and_the_goal_is_visible() -> None:
    pytest.importorskip("metaworld")
    goals = goals_of("reach", VALIDATION_SEED)
    environment, expert = goals.environment_class(), demonstrations._expert("reach")
    episodes = []
    for _ in range(2):
        environment.set_task(goals.goals[0])
        rng = np.random.default_rng(0)
        episodes.append(demonstrations._episode("reach", environment, expert, 0.0, rng))
    first, second = episodes
    assert first is not None and second is not None
    assert np.array_equal(first.observations, second.observations)
    assert np.abs(first.observations[0, 18:21]).max() > 0
    assert np.abs(first.actions).max() <= 1
