from __future__ import annotations

import copy
import inspect
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers.gated_runs import NUM_ROWS, SEEDS, plain_images
from helpers.tiny_pipelines import FAMILIES, NUM_STEPS, build
from helpers.tiny_schedulers import SCHEDULERS

from gensift.denoising.bound import BoundPipeline, num_steps_of
from gensift.denoising.observer import StepEvent, keep_rows, observe_scheduler
from gensift.errors import ConfigError
from samplers.diffusion.callback import observe_steps
from samplers.diffusion.gating import gate_denoisers
from samplers.diffusion.row_gate import LiveRows


@pytest.mark.parametrize("family", FAMILIES)
def test_observing_changes_nothing_and_computes_nothing(family: str) -> None:
    pipe, call_kwargs = build(family)
    plain = plain_images(pipe, call_kwargs(SEEDS))
    events: list[StepEvent] = []
    with observe_steps(pipe, events.append):
        assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)
    assert "step" not in vars(pipe.scheduler)
    count = num_steps_of(pipe)
    assert [event.step_index for event in events] == list(range(count))
    assert {event.num_inference_steps for event in events} == {count}
    assert [event.is_last for event in events] == [False] * (count - 1) + [True]
    assert not any("pred_original_sample" in vars(event) for event in events)


@pytest.mark.parametrize(("scheduler", "count"), [("pndm", 7), ("heun", 11), ("ddim", 6)])
def test_schedulers_that_call_more_often(scheduler: str, count: int) -> None:
    pipe, call_kwargs = build("sd15", scheduler)
    last: list[int] = []

    def note(event: StepEvent) -> None:
        if event.is_last:
            last.append(event.step_index)

    with observe_steps(pipe, note):
        plain_images(pipe, call_kwargs([0]))
        plain_images(pipe, call_kwargs([0]))
    assert last == [count - 1, count - 1]


def test_pipeline_that_stops_early() -> None:
    pipe, call_kwargs = build("sdxl")
    events: list[StepEvent] = []
    with observe_steps(pipe, events.append):
        pipe(**call_kwargs([0]), denoising_end=0.5, output_type="latent")
    assert len(events) == 3 < NUM_STEPS
    assert [event.is_last for event in events] == [False, False, True]


@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline_decodes_only_the_rows_handed_on(family: str) -> None:
    pipe, call_kwargs = build(family)
    plain = plain_images(pipe, call_kwargs(SEEDS))

    def hand_on(event: StepEvent) -> torch.Tensor | None:
        return keep_rows(event.latents, [4, 1], NUM_ROWS) if event.is_last else None

    with observe_steps(pipe, hand_on):
        images = plain_images(pipe, call_kwargs(SEEDS))
    assert len(images) == 2
    torch.testing.assert_close(images, plain[[4, 1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("return_dict", [True, False])
def test_returned_tensor_replaces_the_latents_in_any_output(return_dict: bool) -> None:
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(4)
    x = torch.ones(2, 4, 8, 8)
    plain = scheduler.step(x, scheduler.timesteps[0], x, return_dict=return_dict)
    with observe_scheduler(scheduler, lambda event: event.latents[:1] + 1):
        changed = scheduler.step(x, scheduler.timesteps[0], x, return_dict=return_dict)
    assert type(changed) is type(plain)
    assert torch.equal(changed[0], plain[0][:1] + 1)
    assert torch.equal(changed[1], plain[1])


def test_signature_shows_through() -> None:
    scheduler = SCHEDULERS["ddim"]()
    before = inspect.signature(scheduler.step)
    with observe_scheduler(scheduler, lambda event: None):
        assert inspect.signature(scheduler.step) == before
        with observe_scheduler(scheduler, lambda event: None):
            assert inspect.signature(scheduler.step) == before


def test_deep_copy_steps_itself_unwatched() -> None:
    scheduler = SCHEDULERS["euler"]()
    scheduler.set_timesteps(4)
    events: list[StepEvent] = []
    x = torch.ones(1, 4, 8, 8)
    with observe_scheduler(scheduler, events.append):
        twin = copy.deepcopy(scheduler)
        twin.step(x, twin.timesteps[0], x)
    assert twin.step_index == 1
    assert scheduler.step_index is None
    assert not events


def test_observers_nest() -> None:
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(4)
    x = torch.ones(1, 4, 8, 8)
    inner: list[StepEvent] = []
    with observe_scheduler(scheduler, lambda event: event.latents * 0):
        outer_step = scheduler.step
        with observe_scheduler(scheduler, inner.append):
            scheduler.step(x, scheduler.timesteps[0], x)
        assert scheduler.step == outer_step
    assert "step" not in vars(scheduler)
    assert not inner[0].latents.any()


def test_step_is_restored_after_an_error() -> None:
    scheduler = SCHEDULERS["ddim"]()
    with pytest.raises(KeyboardInterrupt), observe_scheduler(scheduler, lambda event: None):
        raise KeyboardInterrupt
    assert "step" not in vars(scheduler)


def test_live_rows_are_those_of_a_sampler_or_all() -> None:
    pipe, call_kwargs = build("sd3")
    seen: list[Any] = []

    def note(event: StepEvent) -> None:
        seen.append(event.live_rows)

    with observe_steps(pipe, note):
        plain_images(pipe, call_kwargs([0, 1], num_inference_steps=1))
    with observe_steps(pipe, note, num_candidates=2):
        plain_images(pipe, call_kwargs([0, 1], num_inference_steps=1))
        live = LiveRows(2)
        live.prune([1])
        with gate_denoisers(BoundPipeline.of(pipe), live):
            plain_images(pipe, call_kwargs([0, 1], num_inference_steps=1))
    assert seen == [None, (0, 1), (1,)]


def test_keep_rows_in_every_group() -> None:
    latents = torch.arange(6.0).unsqueeze(1)
    assert keep_rows(latents, [2, 0], 3).flatten().tolist() == [2, 0, 5, 3]
    assert keep_rows(latents, [5, 0], 6).flatten().tolist() == [5, 0]


@pytest.mark.parametrize(("order", "num_rows"), [([0], 4), ([], 3), ([3], 3), ([-1], 3), ([0], 9)])
def test_keep_rows_refuses(order: list[int], num_rows: int) -> None:
    with pytest.raises(ConfigError):
        keep_rows(torch.zeros(6, 1), order, num_rows)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "heun"])
def test_flow_sigma_is_the_share_of_noise_in_what_the_scheduler_mixes(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    extra = {"mu": 1.2} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(8, **extra)
    events: list[StepEvent] = []
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with observe_scheduler(scheduler, events.append):
        for timestep in scheduler.timesteps:
            x = scheduler.step(x, timestep, x, return_dict=False)[0]
    # The scheduler's own mixture of signal and noise, read off with one of them at zero.
    fresh = SCHEDULERS[name]()
    fresh.set_timesteps(8, **extra)
    one, none = torch.ones(1), torch.zeros(1)

    def mixed(signal: torch.Tensor, noise: torch.Tensor, timestep: Any) -> float:
        at = torch.as_tensor(timestep)[None]
        if hasattr(fresh, "scale_noise"):
            return float(fresh.scale_noise(signal, at, noise))
        return float(fresh.add_noise(signal, noise, at))

    found = [event.flow_sigma for event in events]
    for event, sigma in zip(events, found, strict=True):
        signal = mixed(one, none, event.timestep)
        noise = mixed(none, one, event.timestep)
        assert sigma == pytest.approx(noise / (signal + noise), rel=1e-5, abs=1e-6)
    assert all(0 < sigma <= 1 for sigma in found)
    # PNDM stays at its second level for a step.
    falling = found[:1] + found[2:] if name == "pndm" else found
    assert all(left > right for left, right in pairwise(falling))
