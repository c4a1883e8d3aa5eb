"""Prices in FLOPs against a count of the very calls that are priced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from helpers.gated_runs import attached_state
from helpers.speaking_pipelines import SIZE, speaking
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gensift.denoising.modules import denoisers_of
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.schedule import UnitCosts
from samplers.diffusion.unit_costs import measure_unit_costs

PROMPT = "a red circle"
GUIDED = {"negative_prompt": "", "true_cfg_scale": 2.0}


def contrast(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.flatten(1).std(1)


def call_of(pipe: Any, prompts: Sequence[str] = (PROMPT,), **arguments: Any) -> PipelineCall:
    given = {"prompt": list(prompts), **SIZE, **arguments}
    return PipelineCall.bind(pipe, type(pipe).__call__, (), given)


def unit_costs(pipe: Any, reward: Any = contrast, **arguments: Any) -> UnitCosts:
    return measure_unit_costs(call_of(pipe, **arguments), reward, "flops")


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())


def flops_per_row(pipe: Any) -> float:
    """FLOPs of one row of a denoiser call, counted on the call alone."""
    calls: list[tuple[Any, Any]] = []
    (denoiser,) = denoisers_of(pipe)
    handle = denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    pipe(PROMPT, **SIZE, num_images_per_prompt=2, guidance_scale=1.0)
    handle.remove()
    args, kwargs = calls[0]
    return flops(lambda: denoiser(*args, **kwargs)) / 2


@pytest.mark.parametrize(
    ("family", "scheduler", "arguments", "rows"),
    [
        ("flux", None, {}, 1),
        ("flux", None, GUIDED, 2),
        ("sd15", "euler", {"guidance_scale": 1.0}, 1),
        ("sd15", "euler", {"guidance_scale": 5.0}, 2),
        ("sd15", "pndm", {"guidance_scale": 5.0}, 2),
        # Heun calls the denoiser twice per step asked for; each of them is a step of the loop.
        ("sd15", "heun", {"guidance_scale": 5.0}, 2),
    ],
)
def test_a_step_costs_its_denoiser_rows(
    family: str, scheduler: str | None, arguments: dict[str, Any], rows: int
) -> None:
    pipe = speaking(family, scheduler)
    assert unit_costs(pipe, **arguments).step == rows * flops_per_row(pipe)


@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_a_verdict_costs_one_decode_and_one_reward(family: str) -> None:
    weight = torch.ones(3 * 16 * 16, 32)

    def projected(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (images.flatten(1) @ weight).sum(1)

    pipe = speaking(family)
    latents = torch.zeros(1, 4, 8, 8)
    decode = flops(lambda: pipe.vae.decode(latents))
    reward = 2 * 3 * 16 * 16 * 32  # a multiplication and an addition per weight
    assert unit_costs(pipe, contrast).scoring == decode
    assert unit_costs(pipe, projected).scoring == decode + reward
    both = {"projected": projected, "contrast": contrast}
    assert unit_costs(pipe, both).scoring == decode + reward


def test_without_a_reward_nothing_is_decoded_for_a_verdict() -> None:
    found = unit_costs(speaking("flux"), None)
    assert found.scoring == 0.0
    assert found.step > 0


@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_prices_are_the_same_every_time(family: str) -> None:
    pipe = speaking(family)
    assert unit_costs(pipe) == unit_costs(pipe) == unit_costs(speaking(family))


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 50},
        {"num_images_per_prompt": 9},
        {"prompts": ("a", "b", "c")},
        {"sigmas": [1.0, 0.7, 0.4]},
        {"output_type": "pil", "return_dict": False},
        {"generator": torch.Generator().manual_seed(4)},
        {"prompts": ("a", "b"), **GUIDED, "negative_prompt": ["", "blurry"]},
    ],
)
def test_prices_are_those_of_one_candidate_whatever_the_call_draws(
    arguments: dict[str, Any],
) -> None:
    guidance = GUIDED if "true_cfg_scale" in arguments else {}
    assert unit_costs(speaking("flux"), **arguments) == unit_costs(speaking("flux"), **guidance)


def test_larger_pictures_cost_more() -> None:
    small, large = unit_costs(speaking("flux")), unit_costs(speaking("flux"), height=32, width=32)
    assert large.step > 2 * small.step  # four times the tokens, beside those of the text
    assert large.scoring >= 4 * small.scoring


def test_measuring_leaves_no_trace_in_later_pictures() -> None:
    def picture(pipe: Any) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        image: Tensor = pipe(PROMPT, **SIZE, generator=generator, output_type="pt").images
        return image

    pipe = speaking("sd15")
    before, state, cls = picture(pipe), attached_state(pipe), type(pipe)
    generator = torch.Generator().manual_seed(8)
    drawn = generator.get_state()
    unit_costs(pipe, generator=generator)
    assert torch.equal(generator.get_state(), drawn)
    assert attached_state(pipe) == state and type(pipe) is cls
    assert torch.equal(picture(pipe), before)
