"""ERTACache against formulas: what is reused, what is taken off it, and how steps move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cached_runs import SHORT, STEPS, UPDATES, cached, counted, final_latents
from helpers.tiny_pipelines import build
from helpers.toy_denoiser import NUM_BLOCKS, Loop, declare_toy, toy_pipeline
from torch import Tensor

from caches.ertacache.config import ERTACacheConfig, ResidualMode, StepRectification
from caches.outputs import as_tensor
from caches.planning.timesteps import adjusted_sigmas
from gensift.denoising.observer import observe_scheduler
from gensift.errors import ConfigError

SHAPES = {"pictures": (4, 3, 2, 2), "videos": (4, 3, 2, 1, 2), "tokens": (4, 5, 3)}
NUM_CHANNELS = 3
TEXT = torch.tensor([1.0, 2.0, 30.0, 40.0])
OTHER_TEXT = torch.tensor([5.0, 6.0, 70.0, 80.0])


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    declare_toy(monkeypatch)


def expected_reuse(mode: ResidualMode, loop: Loop, anchor: int, step: int, text: Tensor) -> Tensor:
    """What stands for `step` when `anchor` was the last step that was computed."""
    if mode == "output":
        return loop.full(anchor, text)
    if mode == "increment":
        return loop.full(anchor, text) - loop.latents(anchor) + loop.latents(step)
    time, column = loop.time(anchor), text.view(-1, *[1] * (len(loop.shape) - 1))
    return 3 * (5 * loop.latents(step) + NUM_BLOCKS * time * 2 * (column + time))


MODES: tuple[ResidualMode, ...] = ("increment", "output", "body")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_reused(mode: ResidualMode, shape: str) -> None:
    pipe = toy_pipeline()
    loop = Loop(pipe, SHAPES[shape], num_steps=6)
    config = ERTACacheConfig(num_steps=6, updates=(0, 2), residual=mode)
    with counted([pipe.transformer]) as counts:
        with cached(pipe, config) as cache:
            found = loop.run([TEXT])
            report = cache.report()
        # The denoiser is called for the sake of what is around its blocks, or not at all.
        assert counts[pipe.transformer] == (6 if mode == "body" else 2)
    anchors = {0: 0, 1: 0, 2: 2, 3: 2, 4: 2, 5: 2}
    for step, (output,) in enumerate(found):
        anchor = anchors[step]
        wanted = loop.full(step, TEXT)
        if step != anchor:
            wanted = expected_reuse(mode, loop, anchor, step, TEXT)
            assert not torch.equal(wanted, loop.full(step, TEXT))
        assert torch.equal(output, wanted), step
    assert (report.computed, report.reused, report.refused) == (2 * 4, 4 * 4, 0)


@pytest.mark.parametrize("names", [(), ("cond", "uncond")], ids=["numbered", "named"])
@pytest.mark.parametrize("mode", MODES)
def test_calls_of_one_step_are_kept_apart(mode: ResidualMode, names: tuple[str, ...]) -> None:
    pipe = toy_pipeline()
    loop = Loop(pipe, SHAPES["pictures"], num_steps=3)
    with cached(pipe, ERTACacheConfig(num_steps=3, updates=(0, 1), residual=mode)):
        found = loop.run([TEXT, OTHER_TEXT], names)
    for output, text in zip(found[2], (TEXT, OTHER_TEXT), strict=True):
        assert torch.equal(output, expected_reuse(mode, loop, 1, 2, text))


def rectified(output: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    return output - (slope * output + offset)


def by_channel(values: tuple[float, ...], loop: Loop) -> Tensor:
    shape = [1] * len(loop.shape)
    shape[-1 if len(loop.shape) == 3 else 1] = -1
    return torch.tensor(values).view(shape)


SLOPE, OFFSET = (0.5, -0.25, 0.125), (8.0, -16.0, 0.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_the_error_of_a_channel_is_taken_off_at_its_step(mode: ResidualMode, shape: str) -> None:
    pipe = toy_pipeline()
    loop = Loop(pipe, SHAPES[shape], num_steps=4)
    item = StepRectification(branch="0", step=2, slope=SLOPE, offset=OFFSET)
    config = ERTACacheConfig(num_steps=4, updates=(0, 1), residual=mode, rectification=(item,))
    with cached(pipe, config):
        found = loop.run([TEXT])
    reused = [expected_reuse(mode, loop, 1, step, TEXT) for step in (2, 3)]
    wanted = rectified(reused[0], by_channel(SLOPE, loop), by_channel(OFFSET, loop))
    assert torch.equal(found[2][0], wanted)
    assert torch.equal(found[3][0], reused[1])
    assert torch.equal(found[1][0], loop.full(1, TEXT))


def test_errors_of_the_branches_are_taken_off_apart() -> None:
    """Two groups in one call, of two prompts each; then two calls."""
    pipe = toy_pipeline()
    loop = Loop(pipe, SHAPES["pictures"], num_steps=3)
    first = StepRectification(branch="0/0", step=2, slope=(0.5,), offset=(4.0,))
    second = StepRectification(branch="0/1", step=2, slope=SLOPE, offset=OFFSET)
    config = ERTACacheConfig(num_steps=3, updates=(0, 1), residual="output", groups=2)
    reused = expected_reuse("output", loop, 1, 2, TEXT)
    for items in ((first, second), (second,), ()):
        with cached(pipe, replace(config, rectification=items)):
            found = loop.run([TEXT])[2][0]
        wanted = reused.clone()
        if first in items:
            wanted[:2] = 0.5 * reused[:2] - 4
        if second in items:
            wanted[2:] = rectified(reused[2:], by_channel(SLOPE, loop), by_channel(OFFSET, loop))
        assert torch.equal(found, wanted)
    named = replace(second, branch="uncond")
    with cached(pipe, replace(config, groups=1, rectification=(named,))):
        cond, uncond = loop.run([TEXT, TEXT], ("cond", "uncond"))[2]
    assert torch.equal(cond, reused)
    assert torch.equal(uncond, rectified(reused, by_channel(SLOPE, loop), by_channel(OFFSET, loop)))


def test_a_call_without_those_groups_is_not_rectified() -> None:
    pipe = toy_pipeline()
    loop = Loop(pipe, (3, 3, 2, 2), num_steps=2)
    item = StepRectification(branch="0/0", step=1, slope=(0.5,), offset=(4.0,))
    config = ERTACacheConfig(
        num_steps=2, updates=(0,), residual="output", groups=2, rectification=(item,)
    )
    with cached(pipe, config):
        found = loop.run([TEXT[:3]])[1][0]
    assert torch.equal(found, loop.full(0, TEXT[:3]))


def test_half_precision_is_kept_in_full_and_given_back_as_it_came() -> None:
    pipe, call_kwargs = build("flux")
    pipe.to(torch.bfloat16)
    dtypes = []
    config = ERTACacheConfig(num_steps=STEPS, updates=UPDATES, residual="increment")
    with (
        cached(pipe, config),
        observe_scheduler(pipe.scheduler, lambda event: dtypes.append(event.model_output.dtype)),
    ):
        kwargs = call_kwargs([0, 1], **SHORT)
        halved = {
            name: value.bfloat16() if isinstance(value, Tensor) else value
            for name, value in kwargs.items()
        }
        latents = final_latents(pipe, halved)
    assert set(dtypes) == {torch.bfloat16} and torch.isfinite(latents).all()


SHARES = (1.0, 0.3, 0.9, 0.5, 0.7)  # those of computed steps are not looked at


def sigmas_and_timesteps(pipe: Any, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, list[float]]:
    """Of the scheduler in a run, and the times that the denoiser was told."""
    told: list[float] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, given: told.append(float(given["timestep"][0])), with_kwargs=True
    )
    final_latents(pipe, kwargs)
    handle.remove()
    return pipe.scheduler.sigmas, pipe.scheduler.timesteps, told


def test_steps_are_moved_as_planned_and_the_denoiser_is_told() -> None:
    pipe, call_kwargs = build("flux")
    nominal, timesteps, _ = sigmas_and_timesteps(pipe, call_kwargs([0], **SHORT))
    config = ERTACacheConfig(num_steps=STEPS, updates=UPDATES, step_shares=SHARES)
    expected = adjusted_sigmas(nominal.double().numpy(), UPDATES, SHARES)
    assert not np.allclose(expected, nominal, atol=1e-3)
    with cached(pipe, config):
        moved, at, told = sigmas_and_timesteps(pipe, call_kwargs([0], **SHORT))
    assert torch.equal(moved, torch.from_numpy(expected).float())
    assert torch.equal(at, moved[:-1] * 1000)
    assert told == pytest.approx((at / 1000).tolist(), rel=1e-6)
    again, timesteps_again, _ = sigmas_and_timesteps(pipe, call_kwargs([0], **SHORT))
    assert torch.equal(again, nominal) and torch.equal(timesteps_again, timesteps)


def test_shares_of_1_move_nothing() -> None:
    pipe, call_kwargs = build("flux")
    config = ERTACacheConfig(num_steps=STEPS, updates=UPDATES)
    with cached(pipe, config):
        expected = final_latents(pipe, call_kwargs([0, 1], **SHORT))
    with cached(pipe, replace(config, step_shares=(1.0,) * STEPS)):
        assert torch.equal(final_latents(pipe, call_kwargs([0, 1], **SHORT)), expected)


def test_another_number_of_steps_takes_each_from_the_nearest() -> None:
    items = tuple(
        StepRectification(branch="0", step=step, slope=(float(step),), offset=(0.0,))
        for step in (2, 4)
    )
    config = ERTACacheConfig(
        num_steps=5, updates=UPDATES, step_shares=SHARES, rectification=items, residual="output"
    )
    assert config.with_steps(5) is config
    with pytest.warns(UserWarning, match="calibrated for 5 steps, the run has 9: its schedule is"):
        more = config.with_steps(9)
    # The nearest of 5 to each of 9: 0 0 1 2 2 2 3 4 4, even ones where two are as near.
    assert more.num_steps == 9 and more.updates == (0, 1, 2, 6)
    assert more.step_shares == tuple(SHARES[i] for i in (0, 0, 1, 2, 2, 2, 3, 4, 4))
    wanted = [(3, 2.0), (4, 2.0), (5, 2.0), (7, 4.0), (8, 4.0)]
    assert [(item.step, item.slope[0]) for item in more.rectification] == wanted
    assert more.residual == "output" and more.other_steps == "warn"
    with pytest.warns(UserWarning):
        fewer = config.with_steps(3)
    assert (fewer.updates, fewer.step_shares) == ((0,), (1.0, 0.9, 0.7))
    with pytest.warns(UserWarning):
        assert config.with_steps(1).updates == (0,)
    with pytest.raises(ConfigError, match="the run has 9; calibrate for that number, or run 5"):
        replace(config, other_steps="refuse").with_steps(9)


def test_the_last_update_before_a_step() -> None:
    config = ERTACacheConfig(num_steps=6, updates=(0, 2, 3))
    assert [config.last_update(step) for step in range(6)] == [0, 0, 2, 3, 3, 3]


ITEM = StepRectification(branch="0", step=1, slope=(1.0,), offset=(0.0,))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"updates": ()}, r"`updates` is \[\]; its first step must be 0"),
        ({"updates": (1, 2)}, r"`updates` is \[1, 2\]; its first step must be 0"),
        ({"updates": (0, 2, 1)}, r"`updates` is \[0, 2, 1\]; give rising steps below 3"),
        ({"updates": (0, 1, 1)}, "give rising steps below 3"),
        ({"updates": (0, 3)}, "give rising steps below 3"),
        ({"step_shares": (1.0, 0.5)}, "`step_shares` has 2 entries for 3 steps"),
        ({"step_shares": (1.0, 0.5, 1.5)}, "step_shares"),
        ({"rectification": (replace(ITEM, step=3),)}, "`rectification` of step 3 does not fit"),
        ({"rectification": (replace(ITEM, offset=()),)}, "`rectification` of step 1 does not fit"),
        ({"residual": "velocity"}, "increment"),
        ({"other_steps": "guess"}, "refuse"),
        ({"groups": 0}, "groups"),
        ({"num_steps": 0, "updates": (0,)}, "num_steps"),
    ],
)
def test_bad_configs_are_refused(options: dict[str, Any], expected: str) -> None:
    given: dict[str, Any] = {"num_steps": 3, "updates": (0, 1), **options}
    with pytest.raises(ConfigError, match=expected) as raised:
        ERTACacheConfig(**given)
    assert "\n" not in str(raised.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        ERTACacheConfig(num_steps=3, updates=(1,), step_shares=(1.0,), groups=0)
    assert len(raised.value.problems) == 3


def test_errors_of_other_channels_than_the_latents_have() -> None:
    pipe = toy_pipeline()
    item = StepRectification(branch="0", step=1, slope=(0.5, 0.5), offset=(0.0, 0.0))
    config = ERTACacheConfig(num_steps=2, updates=(0,), rectification=(item,))
    with (
        cached(pipe, config),
        pytest.raises(ConfigError, match="of 2 channels, the output has 3; calibrate"),
    ):
        Loop(pipe, SHAPES["pictures"], num_steps=2).run([TEXT])


@pytest.mark.parametrize(
    "rows",
    [[], [torch.zeros(2), torch.zeros(3)], [[torch.zeros(2), torch.zeros(2)]], [[None]]],
    ids=["none", "sizes", "several per row", "nothing in a row"],
)
def test_rows_that_are_no_single_tensor(rows: list[Any]) -> None:
    assert as_tensor(rows) is None
