"""Scores are kept beside a recording, for these very weights."""

from pathlib import Path

import numpy as np
import torch
from helpers.noise_aware import brightness_reward, inverted_recording

from samplers.tuning.scored_recording import scored


def test_scores_are_kept_until_the_weights_change(tmp_path: Path) -> None:
    reward = brightness_reward()
    recording = inverted_recording(tmp_path, reward)
    asked: list[int] = []
    first = scored(recording, reward, on_prompt=asked.append)
    again = scored(recording, brightness_reward(), on_prompt=asked.append)
    assert len(asked) == len(recording.prompts)  # the second call found them
    early = first.rewards["reward"].early
    np.testing.assert_array_equal(again.rewards["reward"].early, early)

    with torch.no_grad():
        reward.model[1].weight.mul_(2)  # type: ignore[index]
    changed = scored(recording, reward, on_prompt=asked.append)
    assert len(asked) == 2 * len(recording.prompts)
    np.testing.assert_allclose(changed.rewards["reward"].early, 2 * early, rtol=1e-5)
    # What they are compared with was recorded.
    final = first.rewards["reward"].final
    np.testing.assert_array_equal(changed.rewards["reward"].final, final)
