"""The policy sampler in a known world: what it reports, costs, draws and refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny_policies import scheduler
from helpers.toy_world import ToyArm, toy_goals

import gensift
from caches.bac.config import BACConfig, UnitSchedule
from caches.blocks import units_of
from caches.enable import disable_cache, enable_cache
from gensift.errors import ConfigError, UnknownNameError, UnsupportedPipelineError
from gensift.pipelines.policy.normalizer import LinearNormalizer
from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline
from gensift.pipelines.policy.transformer import DiffusionPolicyTransformer
from gensift.zoo.metaworld import rollouts
from gensift.zoo.metaworld.tasks import ACTION_DIM, OBSERVATION_DIM
from samplers.policy.rollout import PolicyRollout

STEPS = 3


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "goals_of", toy_goals)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Random weights, but for a head that always says: along the first axis, at full speed."""
    torch.manual_seed(0)
    transformer: Any = DiffusionPolicyTransformer(
        input_dim=ACTION_DIM,
        output_dim=ACTION_DIM,
        horizon=5,
        n_obs_steps=2,
        cond_dim=OBSERVATION_DIM,
        n_layer=1,
        n_head=2,
        n_emb=8,
    )
    with torch.no_grad():
        transformer.head.weight.zero_()
        transformer.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    normalizer: Any = LinearNormalizer(obs_dim=OBSERVATION_DIM, action_dim=ACTION_DIM)
    made = DiffusionPolicyPipeline(
        transformer.eval(), scheduler("sample"), normalizer, n_action_steps=4
    )
    made.set_progress_bar_config(disable=True)
    return made


def act(pipe: Any, tasks: Any = "push", **options: Any) -> Any:
    sampler = PolicyRollout(**{"num_candidates": 4, "max_steps": 6} | options)
    return sampler(pipe, tasks, num_inference_steps=STEPS)


def test_episodes_come_best_first_with_their_goals_and_seeds(pipe: Any) -> None:
    output = act(pipe)
    (result,) = output.results
    # Goals lie 2, 4, 6 and 8 steps away; six are allowed.
    found = [(one.goal, one.steps, one.is_success) for one in result.samples]
    assert found == [(0, 2, True), (1, 4, True), (2, 6, True), (3, 6, False)]
    assert result.rewards == (1.0, 1.0, 1.0, 0.0)
    assert result.all_rewards[0] == {"success": 1.0}
    assert (result.first_reward, result.mean_reward) == (1.0, 0.75)
    assert result.seeds == tuple(gensift.randomness.candidate_seeds(0, 0, 4))


def test_cost_is_what_was_evaluated_and_within_the_plan(pipe: Any) -> None:
    output = act(pipe)
    assert output.cost.nfe == STEPS * (4 + 2)
    assert output.cost.denoiser_calls == STEPS * 2
    assert output.cost.reward_calls == {"success": 4}
    plan = PolicyRollout(num_candidates=4, max_steps=6).plan(
        pipe, ["push"], num_inference_steps=STEPS
    )
    assert plan.cost.nfe == STEPS * 4 * 2 >= output.cost.nfe
    assert (plan.num_candidates, plan.peak_rows) == (4, 4)


def test_pictures_of_an_episode_cost_nothing(pipe: Any) -> None:
    names = [unit.name for unit in units_of(pipe.transformer)]
    schedules = tuple(UnitSchedule(unit=name, updates=(0,)) for name in names)
    enable_cache(pipe, BACConfig(num_steps=STEPS, schedules=schedules))
    try:
        drawn, undrawn = act(pipe, frames=3).cost, act(pipe, frames=0).cost
    finally:
        disable_cache(pipe)
    assert drawn.cache_hits == undrawn.cache_hits == (STEPS - 1) * len(names) * (4 + 2)
    assert drawn.nfe == undrawn.nfe


def test_fewer_at_once_come_to_the_same(pipe: Any) -> None:
    whole, parts = act(pipe), act(pipe, max_rows=1)
    for one, other in zip(whole.samples, parts.samples, strict=True):
        assert (one.goal, one.seed, one.steps) == (other.goal, other.seed, other.steps)
    assert parts.cost.nfe == whole.cost.nfe


@pytest.mark.parametrize("at_once", [None, 3])
def test_whoever_watches_is_shown_every_state_of_every_episode(
    pipe: Any, at_once: int | None
) -> None:
    shown: list[int] = []
    sampler = PolicyRollout(num_candidates=4, max_steps=6, max_rows=at_once, frames=0)
    output = sampler(
        pipe,
        "push",
        num_inference_steps=STEPS,
        on_step=lambda frame: shown.append(frame.number),
    )
    steps = {one.goal: one.steps for one in output.samples}
    assert {goal: shown.count(goal) - 1 for goal in range(4)} == steps


def test_the_old_way_to_watch_shows_the_same_and_says_what_is_new(pipe: Any) -> None:
    frames: list[Any] = []
    shown: list[Any] = []
    sampler = PolicyRollout(num_candidates=2, max_steps=6, frames=0)
    sampler(pipe, "push", num_inference_steps=STEPS, on_step=frames.append)
    with pytest.warns(DeprecationWarning, match="`on_frame` is now `on_step`"):
        sampler(
            pipe, "push", num_inference_steps=STEPS, on_frame=lambda *parts: shown.append(parts)
        )
    assert [frame.number for frame in frames] == [number for number, _, _ in shown]
    for frame, (_, _, observation) in zip(frames, shown, strict=True):
        assert frame.task == "push"
        assert (frame.observation == observation).all()


def test_the_best_episode_is_drawn_where_there_is_a_renderer(pipe: Any) -> None:
    output = act(pipe, ["push", "reach"], frames=3, num_outputs=2)
    assert [result.prompt for result in output.results] == ["push", "reach"]
    best, second = output.results[0].samples
    assert best.strip.size == (3 * 160, 160) and best.no_strip is None
    # The hand moves on, and the world grows brighter with it.
    brightness = [best.strip.getpixel((160 * place + 80, 80))[0] for place in range(3)]
    assert brightness == sorted(brightness) and brightness[0] < brightness[2]
    assert second.strip is second.no_strip is None


def test_it_says_so_where_there_is_none(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(self: Any) -> Any:
        raise ImportError("no such library")

    monkeypatch.setattr(ToyArm, "render", render)
    (best, *_) = act(pipe).samples
    assert best.strip is None and "no such library" in best.no_strip


def test_what_does_not_fit_is_refused(pipe: Any) -> None:
    with pytest.raises(UnknownNameError, match="door-open"):
        act(pipe, "door-opened")
    with pytest.raises(ConfigError, match="reward"):
        PolicyRollout(reward=lambda images, prompts: None)
    with pytest.raises(ConfigError, match="num_outputs"):
        PolicyRollout(num_candidates=2, num_outputs=3)
    with pytest.raises(UnsupportedPipelineError, match="plans no actions"):
        act(object())
    with pytest.raises(ConfigError, match="guidance_scale"):
        PolicyRollout().plan(pipe, "push", guidance_scale=2.0)
    with pytest.raises(ConfigError, match="is 21; this policy has 20 at most"):
        PolicyRollout().plan(pipe, "push", num_inference_steps=21)
    with pytest.raises(ConfigError, match="Seeds"):
        PolicyRollout(num_candidates=2)(pipe, "push", seeds=[[1]])
