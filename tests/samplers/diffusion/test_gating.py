from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from helpers.gated_runs import (
    NUM_ROWS,
    SEEDS,
    attached_state,
    gated_run,
    plain_images,
    planned_rows,
)
from helpers.tiny_pipelines import build

from gensift.denoising.bound import BoundPipeline
from gensift.denoising.modules import denoisers_of
from gensift.denoising.observer import observe_scheduler
from gensift.errors import ConfigError
from samplers.diffusion.gating import gate_denoisers, live_rows_of
from samplers.diffusion.row_gate import LiveRows

bound = BoundPipeline.of


class Passing(ModelHook):  # type: ignore[misc]
    """Some other method's hook, one that replaces `forward` as caches do."""

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.fn_ref.original_forward(*args, **kwargs)


def test_gate_is_the_outermost_hook_and_leaves_the_others() -> None:
    pipe, call_kwargs = build("flux")
    registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer)
    registry.register_hook(Passing(), "cache")
    before = attached_state(pipe)
    plain = plain_images(pipe, call_kwargs(SEEDS))
    with gate_denoisers(bound(pipe), LiveRows(NUM_ROWS)) as gates:
        assert list(registry.hooks.values())[-1] is gates[0]
    assert attached_state(pipe) == before
    assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)


def test_gate_below_another_hook_is_closed_where_it_stays() -> None:
    pipe, call_kwargs = build("flux")
    plain = plain_images(pipe, call_kwargs(SEEDS))
    registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer)
    live = LiveRows(NUM_ROWS)
    with gate_denoisers(bound(pipe), live) as (gate,):
        live.prune([0])
        registry.register_hook(Passing(), "cache")
    assert gate.is_closed
    assert live_rows_of(pipe) is None
    assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)
    registry.remove_hook("cache", recurse=False)
    assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)
    assert gated_run(pipe, call_kwargs(SEEDS)).rows_run > 0


def test_one_gate_at_a_time() -> None:
    pipe, _ = build("wan-two-experts")
    with gate_denoisers(bound(pipe), LiveRows(2)):
        before = attached_state(pipe)
        with (
            pytest.raises(ConfigError, match="already"),
            gate_denoisers(bound(pipe), LiveRows(2)),
        ):
            pass
        assert attached_state(pipe) == before


def test_wrong_max_rows_attaches_nothing() -> None:
    pipe, _ = build("wan-two-experts")
    before = attached_state(pipe)
    with (
        pytest.raises(ConfigError, match="max_rows"),
        gate_denoisers(bound(pipe), LiveRows(2), max_rows=0),
    ):
        pass
    assert attached_state(pipe) == before


def test_experts_share_the_alive_set_and_may_be_absent() -> None:
    pipe, _ = build("wan-two-experts")
    live = LiveRows(2)
    with gate_denoisers(bound(pipe), live) as gates:
        assert [gate.live for gate in gates] == [live, live]
        assert live_rows_of(pipe) is live
    pipe.register_modules(transformer=None)
    assert len(denoisers_of(pipe)) == 1


@pytest.mark.parametrize("family", ["sd15", "flux-true-cfg", "wan-two-experts"])
def test_model_offloading(family: str) -> None:
    pipe, call_kwargs = build(family)
    plain = plain_images(pipe, call_kwargs(SEEDS))
    pipe.enable_model_cpu_offload(device="cpu")
    # The end of each call rebuilds the offload hooks, so one run proves nothing.
    for _ in range(3):
        run = gated_run(pipe, call_kwargs(SEEDS))
        assert run.rows_run == planned_rows(family, run.num_steps)
        for module in denoisers_of(pipe):
            assert not module._diffusers_hook.hooks
        assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)
    pipe.remove_all_hooks()
    assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)


def test_offloading_turned_on_while_gated() -> None:
    pipe, call_kwargs = build("sd15")
    plain = plain_images(pipe, call_kwargs(SEEDS))
    live = LiveRows(NUM_ROWS)
    with gate_denoisers(bound(pipe), live):
        pipe.enable_model_cpu_offload(device="cpu")
        plain_images(pipe, call_kwargs(SEEDS))
        live.prune([0])
    for _ in range(3):
        assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)


def test_offloading_turned_off_while_gated() -> None:
    pipe, call_kwargs = build("sd15")
    plain = plain_images(pipe, call_kwargs(SEEDS))
    pipe.enable_model_cpu_offload(device="cpu")
    with gate_denoisers(bound(pipe), LiveRows(NUM_ROWS)):
        plain_images(pipe, call_kwargs(SEEDS))
        pipe.remove_all_hooks()
    # The `forward` that the registry remembers calls an offload hook that is gone by now.
    assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)


@pytest.mark.parametrize("fails", [True, False])
def test_models_are_freed_after_a_failure(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, _ = build("sd15")
    freed: list[list[Any]] = []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(attached_state(pipe)))
    before = attached_state(pipe)
    with suppress(KeyboardInterrupt), gate_denoisers(bound(pipe), LiveRows(NUM_ROWS)):
        if fails:
            raise KeyboardInterrupt
    # Only once the gate is off: freeing rebuilds `forward`.
    assert freed == ([before] if fails else [])


def test_offloading_after_a_failure() -> None:
    pipe, call_kwargs = build("sd15")
    plain = plain_images(pipe, call_kwargs(SEEDS))
    pipe.enable_model_cpu_offload(device="cpu")
    live = LiveRows(NUM_ROWS)

    def fail(event: Any) -> None:
        live.prune([0])
        if event.step_index == 2:
            raise KeyboardInterrupt

    for _ in range(2):
        live = LiveRows(NUM_ROWS)
        with (
            pytest.raises(KeyboardInterrupt),
            gate_denoisers(bound(pipe), live),
            observe_scheduler(pipe.scheduler, fail),
        ):
            plain_images(pipe, call_kwargs(SEEDS))
        assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)


@pytest.mark.parametrize("wraps", [True, False], ids=["torch.compile", "module.compile"])
def test_compiled_denoiser(wraps: bool) -> None:
    pipe, call_kwargs = build("sd3")
    plain = gated_run(pipe, call_kwargs(SEEDS))
    if wraps:
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    else:
        pipe.transformer.compile(backend="eager")
    run = gated_run(pipe, call_kwargs(SEEDS))
    assert run.rows_run == planned_rows("sd3", run.num_steps)
    assert torch.allclose(run.latents, plain.latents, rtol=1e-5, atol=1e-6)
    assert gated_run(pipe, call_kwargs(SEEDS)).rows_run == run.rows_run
