"""BAC: each sub-block by its own schedule, and no other module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.cached_runs import (
    cached,
    counted,
    final_latents,
    num_calls,
    reference,
    traces_on,
)
from helpers.gated_runs import relative_error
from helpers.tiny_pipelines import FAMILIES, GUIDANCE_FACTOR, build
from helpers.toy_denoiser import NUM_BLOCKS, Loop, declare_toy, toy_pipeline

from caches.bac.config import BACConfig, UnitSchedule
from caches.bac.units import UnitSlot
from caches.blocks import PlacedUnit, units_of
from gensift.denoising.modules import denoisers_of, hooks_on
from gensift.errors import ConfigError

STEPS = 6
SEEDS = [0, 1]
# By turns: some sub-blocks are computed while others are reused, at every step but the first.
OWN_UPDATES = ((0, 1, 3), (0, 2, 3), (0,), (0, 1, 2, 3, 4, 5), (0, 4))


def own_updates(pipe: Any) -> dict[str, tuple[int, ...]]:
    """Updates of each sub-block; two experts change over at a step that all compute."""
    names = [unit.name for unit in units_of(denoisers_of(pipe)[0])]
    change = () if len(denoisers_of(pipe)) == 1 else (_first_step_of_second(pipe),)
    return {
        name: tuple(sorted({*OWN_UPDATES[i % len(OWN_UPDATES)], *change}))
        for i, name in enumerate(names)
    }


def _first_step_of_second(pipe: Any) -> int:
    pipe.scheduler.set_timesteps(STEPS)
    boundary = pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps
    return int((pipe.scheduler.timesteps >= boundary).sum())


def config_with(updates: dict[str, tuple[int, ...]]) -> BACConfig:
    schedules = tuple(UnitSchedule(unit=name, updates=steps) for name, steps in updates.items())
    return BACConfig(num_steps=STEPS, schedules=schedules)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    declare_toy(monkeypatch)


FAMILIES_HERE = [name for name in FAMILIES if name not in ("sdxl", "dit")]


@pytest.mark.parametrize("family", FAMILIES_HERE)
def test_every_sub_block_keeps_to_its_own_schedule(family: str) -> None:
    pipe, call_kwargs = build(family, "ddim" if family == "sd15" else None)
    updates = own_updates(pipe)
    kwargs = {"num_inference_steps": STEPS}
    units = [unit for denoiser in denoisers_of(pipe) for unit in units_of(denoiser)]
    with counted([module for unit in units for module in unit.modules]) as counts:
        with cached(pipe, config_with(updates)) as cache:
            found = final_latents(pipe, call_kwargs(SEEDS, **kwargs))
            report = cache.report()
        for name, steps in updates.items():
            modules = [unit.modules for unit in units if unit.name == name]
            for together in zip(*modules, strict=True):
                runs = sum(counts[module] for module in together)
                assert runs == len(steps) * num_calls(family), name
    rows = len(SEEDS) * GUIDANCE_FACTOR[family]
    computed = rows * sum(map(len, updates.values()))
    assert (report.computed, report.refused) == (computed, 0)
    assert report.reused == rows * STEPS * len(updates) - computed
    assert report.reused_share == report.reused / (rows * STEPS * len(updates))
    with reference(pipe, "bac", updates, num_calls(family)):
        expected = final_latents(pipe, call_kwargs(SEEDS, **kwargs))
    assert relative_error(found, expected) <= 1e-6


def test_the_fused_block_of_flux_runs_neither_attention_nor_projections() -> None:
    pipe, call_kwargs = build("flux")
    (block,) = pipe.transformer.single_transformer_blocks
    config = config_with({"single_transformer_blocks.0.fused": (0,)})
    with counted([block.attn, block.proj_mlp, block.proj_out, block.norm]) as counts:
        with cached(pipe, config):
            final_latents(pipe, call_kwargs(SEEDS, num_inference_steps=STEPS))
        # Norm and gate are those of the present step.
        assert [counts[m] for m in (block.attn, block.proj_mlp, block.proj_out)] == [1, 1, 1]
        assert counts[block.norm] == STEPS


@pytest.fixture
def toy_unit(toy: None) -> PlacedUnit:
    return units_of(toy_pipeline().transformer)[0]


def test_what_is_reused_by_hand(toy: None) -> None:
    """The gate is that of the step, the sub-block's output that of an earlier one."""
    pipe = toy_pipeline()
    loop, text = Loop(pipe, (4, 3, 2, 2), num_steps=4), torch.tensor([1.0, 2.0, 3.0, 4.0])
    config = BACConfig(
        num_steps=4,
        schedules=(
            UnitSchedule(unit="blocks.0.attn", updates=(0, 1)),
            UnitSchedule(unit="blocks.1.attn", updates=(0, 2)),
        ),
    )
    with cached(pipe, config):
        found = loop.run([text])
    column = text.view(4, 1, 1, 1)
    for step, anchors in enumerate([(0, 0), (1, 0), (1, 2), (1, 2)]):
        added = sum(2 * (column + loop.time(anchor)) for anchor in anchors)
        assert torch.equal(found[step][0], 3 * (5 * loop.latents(step) + loop.time(step) * added))
    assert len(anchors) == NUM_BLOCKS


@pytest.mark.parametrize("shape", [(2, 5, 3), (3, 4, 3), (2, 4, 3)], ids=str)
def test_what_is_given_must_fit_the_batch(shape: tuple[int, ...], toy_unit: PlacedUnit) -> None:
    slot, batch = UnitSlot(toy_unit), torch.ones(2, 4, 3)
    slot.given = (torch.full(shape, 7.0),)
    output = toy_unit.module(batch)
    is_given = shape == batch.shape
    assert torch.equal(output, torch.full(batch.shape, 7.0 if is_given else 2.0))
    assert (slot.given is not None, slot.taken is None) == (is_given, is_given)
    slot.detach()
    assert torch.equal(toy_unit.module(batch), 2 * batch)
    assert "forward" not in vars(toy_unit.module)


def test_padded_tokens_are_cut_off_or_filled_up(toy_unit: PlacedUnit) -> None:
    slot = UnitSlot(replace(toy_unit, is_padded=True))
    for tokens in (3, 5):
        slot.given = (torch.full((2, tokens, 3), 7.0),)
        output = toy_unit.module(torch.ones(2, 4, 3))
        assert output[0, :, 0].tolist() == [7.0] * min(tokens, 4) + [0.0] * (4 - min(tokens, 4))
    slot.detach()


def test_only_the_modules_of_the_schedule_are_hooked() -> None:
    pipe, _ = build("flux")
    before = traces_on(pipe)
    block = pipe.transformer.transformer_blocks[0]
    with cached(pipe, config_with({"transformer_blocks.0.ff": (0, 1)})):
        hooked = [module for module in pipe.transformer.modules() if hooks_on(module)]
        assert hooked == [pipe.transformer, block.ff]
    assert traces_on(pipe) == before


def test_memory_is_that_of_the_sub_blocks_kept() -> None:
    pipe, call_kwargs = build("flux")
    held: list[int] = []
    with cached(pipe, config_with({"transformer_blocks.0.ff": (0, 1, 2, 4)})) as cache:
        handle = pipe.transformer.register_forward_hook(
            lambda *_: held.append(cache.report().num_bytes)
        )
        final_latents(pipe, call_kwargs(SEEDS, num_inference_steps=STEPS))
        handle.remove()
        assert cache.report().num_bytes == 0
    size = 2 * 16 * 32 * 4  # rows, tokens, channels, bytes
    # Kept only where it is reused next: at the steps 2 and 4; and until it is replaced.
    assert held == [0, 0, size, size, size, size]


SCHEDULE = UnitSchedule(unit="a", updates=(0, 1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedules": (SCHEDULE, SCHEDULE)}, "`schedules` names a sub-block twice"),
        ({"schedules": ()}, "`schedules` is empty; name at least one sub-block"),
        ({"schedules": (replace(SCHEDULE, updates=()),)}, r"a is updated at \[\]; give rising"),
        ({"schedules": (replace(SCHEDULE, updates=(1,)),)}, r"a is updated at \[1\]; give rising"),
        ({"schedules": (replace(SCHEDULE, updates=(0, 3)),)}, r"give rising steps from 0 below"),
        ({"schedules": (replace(SCHEDULE, updates=(0, 2, 1)),)}, r"give rising steps from 0 below"),
        ({"other_steps": "guess"}, "refuse"),
        ({"num_steps": 0}, "num_steps"),
    ],
)
def test_bad_configs_are_refused(options: dict[str, Any], expected: str) -> None:
    given: dict[str, Any] = {"num_steps": 3, "schedules": (SCHEDULE,), **options}
    with pytest.raises(ConfigError, match=expected) as raised:
        BACConfig(**given)
    assert "\n" not in str(raised.value)


def test_another_number_of_steps_takes_each_from_the_nearest() -> None:
    config = BACConfig(
        num_steps=5,
        schedules=(
            UnitSchedule(unit="a", updates=(0, 1, 3)),
            UnitSchedule(unit="b", updates=(0, 4)),
        ),
    )
    assert config.with_steps(5) is config
    with pytest.warns(UserWarning, match="calibrated for 5 steps, the run has 9: its schedule"):
        more = config.with_steps(9)
    # The nearest of 5 to each of 9: 0 0 1 2 2 2 3 4 4, even ones where two are as near.
    assert more.updates_of == {"a": frozenset({0, 1, 2, 6}), "b": frozenset({0, 1, 7, 8})}
    with pytest.warns(UserWarning):
        assert config.with_steps(3).updates_of == {"a": frozenset({0}), "b": frozenset({0, 2})}
    with pytest.raises(ConfigError, match="the run has 9; calibrate for that number, or run 5"):
        replace(config, other_steps="refuse").with_steps(9)
