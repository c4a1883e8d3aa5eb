"""What the policy learns from: windows of episodes, each with the actions that belong to it."""

from __future__ import annotations

import numpy as np
import torch

from apps.training.zoo.metaworld_policy import (
    ACTION_STEPS,
    HORIZON,
    OBS_STEPS,
    build_scheduler,
    build_transformer,
    cut_windows,
    fit_normalizer,
)
from gensift.zoo.metaworld.demonstrations import Demonstration
from gensift.zoo.metaworld.tasks import ACTION_DIM, OBSERVATION_DIM


def episode(steps: int, start: float) -> Demonstration:
    times = (start + np.arange(steps, dtype=np.float32))[:, None]
    return Demonstration(
        np.repeat(times, OBSERVATION_DIM, axis=1), np.repeat(times / 100, ACTION_DIM, axis=1)
    )


def test_windows_hold_what_was_seen_and_done_at_their_times() -> None:
    episodes = [episode(12, 0), episode(5, 50)]
    normalizer = fit_normalizer(episodes)
    windows = cut_windows(episodes, normalizer)
    assert windows.observations.shape == (17, OBS_STEPS, OBSERVATION_DIM)
    assert windows.actions.shape == (17, HORIZON, ACTION_DIM)
    seen = normalizer.obs.unnormalize(windows.observations)[..., 0]
    done = windows.actions[..., 0] * 100
    now = torch.tensor([*range(12), *range(50, 55)]).float()
    assert torch.allclose(seen[:, -1], now, atol=1e-4)
    # The first action belongs to the first observation; at the end the last one goes on.
    expected = torch.arange(3.0, 3 + HORIZON) - (OBS_STEPS - 1)
    assert torch.allclose(done[3], expected.clamp(max=11), atol=1e-4)
    assert torch.allclose(done[11, OBS_STEPS:], torch.full((HORIZON - OBS_STEPS,), 11.0), atol=1e-4)
    assert torch.allclose(done[12, 0], torch.tensor(50.0), atol=1e-4)


def test_limits_of_observations_are_plus_and_minus_one() -> None:
    episodes = [episode(12, 0), episode(5, 50)]
    observations = cut_windows(episodes, fit_normalizer(episodes)).observations
    assert float(observations.min()) == -1 and float(observations.max()) == 1


def test_the_model_is_small_and_plans_enough() -> None:
    transformer = build_transformer()
    bytes_in_half = 2 * sum(p.numel() for p in transformer.parameters())
    assert bytes_in_half < 8e6
    assert OBS_STEPS - 1 + ACTION_STEPS <= HORIZON
    assert build_scheduler().config.num_train_timesteps == 100
