"""Copying rows in mid-run, and steps tried without being made."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from helpers.searches import PROMPT, close, generators, pictures, plain
from helpers.speaking_pipelines import speaking

from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.denoising.scheduler_rows import check_copyable, copy_history
from gensift.errors import UnsupportedPipelineError

FAMILY = {
    "flow-euler": "flux",
    **dict.fromkeys(("ddim", "dpm++", "euler", "pndm", "unipc"), "sd15"),
}
RANDOM = ("ddpm", "euler-ancestral", "lcm", "sde-dpm++")
SEEDS = [5, 3, 8]


@pytest.mark.parametrize("scheduler", FAMILY)
def test_a_copy_goes_the_way_of_its_parent(scheduler: str) -> None:
    pipe = speaking(FAMILY[scheduler], scheduler)
    expected = plain(pipe, SEEDS)
    with observe_scheduler(
        pipe.scheduler,
        lambda event: None,
        before_step=lambda event: [0, 0, 2] if event.step_index == 3 else None,
    ):
        found = plain(pipe, SEEDS)
    # With the solver's memory of another row it would end elsewhere.
    assert close(found[0], expected[0]) and close(found[1], expected[0])
    assert close(found[2], expected[2])


@pytest.mark.parametrize("scheduler", RANDOM)
def test_copies_part_by_their_own_noise(scheduler: str) -> None:
    pipe = speaking("sd15", scheduler)
    expected = plain(pipe, SEEDS)
    with observe_scheduler(
        pipe.scheduler,
        lambda event: None,
        before_step=lambda event: [0, 0, 2] if event.step_index == 3 else None,
    ):
        found = plain(pipe, SEEDS)
    assert close(found[0], expected[0]) and close(found[2], expected[2])
    assert not close(found[1], expected[0]) and not close(found[1], expected[1])


@pytest.mark.parametrize("scheduler", [*FAMILY, *RANDOM])
def test_x0_and_sigma_are_known_before_the_step_and_nothing_moves(scheduler: str) -> None:
    pipe = speaking(FAMILY.get(scheduler, "sd15"), scheduler)
    early: list[tuple[torch.Tensor, float, float]] = []
    late: list[tuple[torch.Tensor, float, float]] = []

    def note(events: list[Any], event: StepEvent) -> None:
        events.append((event.pred_original_sample, event.sigma, event.flow_sigma))

    expected, state = plain(pipe, SEEDS), torch.get_rng_state()
    used = generators(SEEDS)
    with observe_scheduler(
        pipe.scheduler, lambda event: note(late, event), before_step=lambda e: note(early, e)
    ):
        found = pictures(pipe, PROMPT, num_images_per_prompt=3, generator=used)
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), state)
    for (x0, *levels), (late_x0, *late_levels) in zip(early, late, strict=True):
        assert torch.equal(x0, late_x0) and levels == late_levels


def test_an_event_read_late_still_tells_of_its_own_step() -> None:
    pipe, events, x0s = speaking("sd15", "dpm++"), list[StepEvent](), list[torch.Tensor]()
    with observe_scheduler(
        pipe.scheduler,
        lambda event: x0s.append(event.pred_original_sample),
        before_step=events.append,
    ):
        plain(pipe, SEEDS)
    assert all(torch.equal(e.pred_original_sample, x) for e, x in zip(events, x0s, strict=True))


def test_schedulers_with_an_unknown_memory_are_refused() -> None:
    scheduler = diffusers.KDPM2AncestralDiscreteScheduler()
    for refused in (lambda: check_copyable(scheduler), lambda: copy_history(scheduler, [0])):
        with pytest.raises(UnsupportedPipelineError, match=r"none can be copied\. Use one of DDIM"):
            refused()
