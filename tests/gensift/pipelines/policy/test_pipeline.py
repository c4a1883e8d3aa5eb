"""The policy pipeline: who sees what, chunks, scales, schedulers, saving and loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from helpers.tiny_policies import ACTION, DIM, HORIZON, OBS, observations, pipeline, transformer
from torch import Tensor

import gensift
from gensift.errors import ConfigError
from gensift.pipelines.policy.control import History, RecedingHorizon
from gensift.pipelines.policy.normalizer import Scale
from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline

STEPS = 6


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


def actions(pipe: Any, batch: Tensor, **kwargs: Any) -> Tensor:
    given = {"num_inference_steps": STEPS, "generator": generators(len(batch))} | kwargs
    found: Tensor = pipe(batch, **given).actions
    return found


def test_an_action_sees_no_later_action_and_no_later_observation() -> None:
    model = transformer()
    sample, cond = torch.randn(1, HORIZON, ACTION), observations(1)
    with torch.no_grad():
        before = model(sample, 3, cond)
        for place in range(HORIZON):
            moved = sample.clone()
            moved[:, place] += 1
            change = (model(moved, 3, cond) - before).abs().amax(-1)[0]
            assert change[:place].max() == 0 if place else True
            assert change[place:].min() > 0
        later = cond.clone()
        later[:, 1] += 1
        change = (model(sample, 3, later) - before).abs().amax(-1)[0]
        assert change[0] == 0 and change[1:].min() > 0


def test_without_a_causal_mask_every_action_sees_all() -> None:
    model = transformer(causal_attn=False, n_cond_layers=1)
    sample, cond = torch.randn(1, HORIZON, ACTION), observations(1)
    moved = sample.clone()
    moved[:, -1] += 1
    with torch.no_grad():
        change = (model(moved, 3, cond) - model(sample, 3, cond)).abs().amax(-1)
    assert change.min() > 0


def test_times_may_be_one_or_one_per_row() -> None:
    model = transformer()
    sample, cond = torch.randn(2, HORIZON, ACTION), observations(2)
    with torch.no_grad():
        both = model(sample, torch.tensor([3, 7]), cond)
        assert torch.allclose(both[1:], model(sample[1:], 7, cond[1:]), atol=1e-6)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_every_scheduler_leads_to_the_actions_of_its_own_loop(name: str) -> None:
    pipe = pipeline()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    batch = observations(2)
    found = pipe(batch, num_inference_steps=STEPS, generator=generators(2), output_type="latent")
    loop = getattr(diffusers, name).from_config(pipe.scheduler.config)
    loop.set_timesteps(STEPS)
    drawn = generators(2)
    sample = torch.cat([torch.randn(1, HORIZON, ACTION, generator=g) for g in drawn])
    cond = pipe.normalizer.obs.normalize(batch)
    with torch.no_grad():
        for timestep in loop.timesteps:
            output = pipe.transformer(sample, timestep, cond)
            sample = loop.step(output, timestep, sample, generator=drawn).prev_sample
    assert torch.allclose(found.actions, sample, atol=1e-5)
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 4.0])
    expected = low + (sample[..., :2] + 1) / 2 * (high - low)
    assert torch.allclose(found.horizon[..., :2], expected, atol=1e-5)


def test_a_chunk_begins_with_the_action_of_the_latest_observation() -> None:
    pipe, batch = pipeline(), observations(1)
    found = pipe(batch, num_inference_steps=STEPS, generator=generators(1))
    assert torch.equal(found.actions, found.horizon[:, OBS - 1 : OBS + 3])
    after = DiffusionPolicyPipeline(
        pipe.transformer, pipe.scheduler, pipe.normalizer, 4, oa_step_convention=False
    )
    after.set_progress_bar_config(disable=True)
    found = after(batch, num_inference_steps=STEPS, generator=generators(1))
    assert torch.equal(found.actions, found.horizon[:, OBS : OBS + 4])


def test_a_robot_alone_is_that_robot_among_others() -> None:
    pipe, batch = pipeline(), observations(3)
    together = actions(pipe, batch)
    alone = actions(pipe, batch[2:], generator=generators(1, seed=2))
    assert torch.allclose(together[2:], alone, atol=1e-5)
    assert not torch.allclose(together[1:2], alone, atol=1e-2)


def test_scales_reach_their_limits_and_come_back() -> None:
    scale, values = Scale(3), torch.tensor([[0.0, 5.0, 7.0], [4.0, 6.0, 7.0]])
    scale.fit(values)
    assert torch.equal(scale.normalize(values), torch.tensor([[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]))
    assert torch.allclose(scale.unnormalize(scale.normalize(values)), values)


def test_what_was_saved_is_loaded_and_scales_stay_exact(tmp_path: Path) -> None:
    pipe, batch = pipeline(), observations(2)
    expected = actions(pipe, batch)
    pipe.save_pretrained(tmp_path / "full")
    for found in (
        gensift.load_pipeline(tmp_path / "full", device="cpu"),
        DiffusionPolicyPipeline.from_pretrained(tmp_path / "full"),
    ):
        found.set_progress_bar_config(disable=True)
        assert isinstance(found, DiffusionPolicyPipeline) and found.n_action_steps == 4
        assert torch.equal(actions(found, batch), expected)
    offset = pipe.normalizer.obs.offset.clone()
    pipe.to(torch.float16).save_pretrained(tmp_path / "half")
    half: Any = gensift.load_pipeline(tmp_path / "half", device="cpu", dtype="bfloat16")
    assert half.transformer.dtype == torch.bfloat16
    assert torch.equal(half.normalizer.obs.offset, offset)


def test_a_history_begins_with_its_first_observation() -> None:
    history = History(3)
    for value in (1.0, 2.0):
        history.see(torch.full((DIM,), value))
    assert history.stacked()[:, 0].tolist() == [1.0, 1.0, 2.0]
    for value in (3.0, 4.0):
        history.see(torch.full((DIM,), value))
    assert history.stacked()[:, 0].tolist() == [2.0, 3.0, 4.0]


def test_control_plans_from_what_each_robot_has_seen() -> None:
    pipe, batch = pipeline(), observations(2)
    control = RecedingHorizon(pipe, num_inference_steps=STEPS)
    histories = control.histories(2)
    for history, seen in zip(histories, batch, strict=True):
        for observation in seen:
            history.see(observation.numpy())
    assert torch.equal(control.actions(histories, generators(2)), actions(pipe, batch))


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"observations": torch.zeros(1, OBS, DIM + 1)}, "shape"),
        ({"observations": torch.zeros(2, OBS, DIM), "generator": generators(3)}, "3 generators"),
        ({"observations": torch.zeros(1, OBS, DIM), "output_type": "pil"}, "output_type"),
        ({"observations": torch.zeros(1, OBS, DIM), "latents": torch.zeros(1, 2, 3)}, "latents"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        pipeline()(**kwargs)


def test_sizes_that_do_not_go_together_are_refused() -> None:
    pipe = pipeline()
    with pytest.raises(ConfigError, match="1 to 5"):
        DiffusionPolicyPipeline(pipe.transformer, pipe.scheduler, pipe.normalizer, 6)
    with pytest.raises(ConfigError, match="n_head"):
        transformer(n_emb=15)
