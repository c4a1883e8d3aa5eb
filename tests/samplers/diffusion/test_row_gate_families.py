"""The promises of the row gate, on every supported pipeline and scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.gated_runs import (
    NUM_ROWS,
    SEEDS,
    attached_state,
    gated_run,
    plain_images,
    plain_latents,
    planned_rows,
    relative_error,
)
from helpers.tiny_pipelines import FAMILIES, GUIDANCE_FACTOR, Tiny, build

from gensift.denoising.bound import BoundPipeline
from gensift.denoising.observer import StepEvent, observe_scheduler
from samplers.diffusion.gating import gate_denoisers
from samplers.diffusion.row_gate import LiveRows

# Batched kernels round differently from those for one row; random weights make it 1e-7 to 3e-6.
TOLERANCE = 1e-5

_UNET_SCHEDULERS = ["ddim", "euler", "euler-ancestral", "dpm++", "unipc"]
CASES = [
    *((family, None) for family in FAMILIES),
    *(("sd15", name) for name in [*_UNET_SCHEDULERS, "ddpm", "lcm", "sde-dpm++", "heun"]),
    *(("sdxl", name) for name in _UNET_SCHEDULERS if name != "euler"),
    *(("pixart-sigma", name) for name in _UNET_SCHEDULERS if name != "dpm++"),
    *(("sd3", name) for name in ["flow-dpm++", "flow-unipc"]),
    *(("flux-true-cfg", name) for name in ["flow-dpm++-mu", "flow-unipc-mu"]),
    *(("sana", name) for name in ["flow-euler", "flow-unipc"]),
    *(("wan-two-experts", name) for name in ["flow-euler", "flow-dpm++"]),
    ("qwen-image", "flow-unipc-mu"),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(filter(None, case)))
def case(request: pytest.FixtureRequest) -> tuple[str, Tiny]:
    family, scheduler = request.param
    return family, build(family, scheduler)


def test_keep_all_is_bit_identical(case: tuple[str, Tiny]) -> None:
    family, (pipe, call_kwargs) = case
    before = attached_state(pipe)
    plain = plain_images(pipe, call_kwargs(SEEDS))
    # FLUX makes itself an empty hook registry; nothing else may appear.
    assert attached_state(pipe) == before
    run = gated_run(pipe, call_kwargs(SEEDS), plan={})
    assert torch.equal(run.images, plain)
    assert run.rows_run == GUIDANCE_FACTOR[family] * NUM_ROWS * run.num_steps
    assert attached_state(pipe) == before


def test_survivors_equal_their_solo_runs(case: tuple[str, Tiny]) -> None:
    family, (pipe, call_kwargs) = case
    run = gated_run(pipe, call_kwargs(SEEDS))
    assert run.rows_run == planned_rows(family, run.num_steps)
    assert len(run.images) == 2
    assert torch.isfinite(run.images).all()
    for place, seed in enumerate([2, 5]):
        solo = plain_latents(pipe, call_kwargs([seed]))
        assert relative_error(run.latents[place : place + 1], solo) <= TOLERANCE


def test_micro_batches_change_nothing_but_calls(case: tuple[str, Tiny]) -> None:
    family, (pipe, call_kwargs) = case
    whole = gated_run(pipe, call_kwargs(SEEDS))
    micro = gated_run(pipe, call_kwargs(SEEDS), max_rows=3)
    assert micro.rows_run == whole.rows_run == planned_rows(family, whole.num_steps)
    assert micro.calls > whole.calls
    assert relative_error(micro.latents, whole.latents) <= TOLERANCE


# Calls whose number of guidance groups differs from the family's usual one, or changes in mid-run.
OTHER_GROUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "no guidance": ("sd15", {"guidance_scale": 1.0}),
    "no guidance, loop without groups": ("dit", {"guidance_scale": 1.0}),
    "rescaled guidance": ("sdxl", {"guidance_rescale": 0.7}),
    "skip-layer calls": (
        "sd3",
        {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "guidance_scale": 4.0},
    ),
    "guidance ends early": ("z-image", {"cfg_truncation": 0.6}),
    "guidance in one expert": ("wan-two-experts", {"guidance_scale_2": 1.0}),
}


@pytest.mark.parametrize("name", OTHER_GROUPS)
def test_number_of_groups_may_change(name: str) -> None:
    family, options = OTHER_GROUPS[name]
    pipe, call_kwargs = build(family)
    plain = plain_images(pipe, call_kwargs(SEEDS, **options))
    keep_all = gated_run(pipe, call_kwargs(SEEDS, **options), plan={})
    assert torch.equal(keep_all.images, plain)
    run = gated_run(pipe, call_kwargs(SEEDS, **options), max_rows=5)
    assert run.rows_run < keep_all.rows_run
    for place, seed in enumerate([2, 5]):
        solo = plain_latents(pipe, call_kwargs([seed], **options))
        assert relative_error(run.latents[place : place + 1], solo) <= TOLERANCE


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_pipeline_as_before(
    case: tuple[str, Tiny], failure: type[BaseException]
) -> None:
    _, (pipe, call_kwargs) = case
    plain = plain_images(pipe, call_kwargs(SEEDS))
    before = attached_state(pipe)
    live = LiveRows(NUM_ROWS)

    def fail_after_pruning(event: StepEvent) -> None:
        live.prune([1, 4])
        if event.step_index == 2:
            raise failure

    with (
        pytest.raises(failure),
        gate_denoisers(BoundPipeline.of(pipe), live, max_rows=3),
        observe_scheduler(pipe.scheduler, fail_after_pruning),
    ):
        plain_images(pipe, call_kwargs(SEEDS))
    assert attached_state(pipe) == before
    assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)
