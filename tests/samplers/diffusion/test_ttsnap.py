"""TTSnap against a simulation that sees every candidate at every step and prunes on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers.searches import PROMPT, TOLERANCE, close, contrast, generators, redness
from helpers.speaking_pipelines import SIZE, speaking
from torch import Tensor

import gensift
from gensift.denoising.observer import StepEvent
from gensift.errors import ConfigError, UnknownNameError
from gensift.randomness import candidate_seeds
from gensift.trace import PromptTrace
from rewards.protocol import Reward
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.callback import observe_steps
from samplers.diffusion.config import SearchConfig, TTSnapConfig
from samplers.diffusion.ttsnap import TTSnap
from samplers.registry import SAMPLERS

STEPS = 10
CALL = {**SIZE, "num_inference_steps": STEPS}


def record(pipe: Any, seeds: Sequence[int]) -> list[Tensor]:
    """Pictures of what each candidate would be at each step, and last the finished ones."""
    estimates: list[Tensor] = []
    arguments = {
        "num_images_per_prompt": len(seeds),
        "generator": generators(seeds),
        "output_type": "pt",
    }
    with observe_steps(pipe, lambda event: estimates.append(clean_latents(pipe, event))):
        finished = pipe(PROMPT, **CALL, **arguments).images
    return [decoded(pipe, latents) for latents in estimates] + [finished]


def clean_latents(pipe: Any, event: StepEvent) -> Tensor:
    """x0 by the textbook: flow matching for FLUX, the variance-preserving formula for SD."""
    if hasattr(pipe, "transformer"):
        sigma = pipe.scheduler.sigmas[event.step_index]
        return event.sample - sigma * event.model_output
    alpha = pipe.scheduler.alphas_cumprod[int(event.timestep)]
    return (event.sample - (1 - alpha).sqrt() * event.model_output) / alpha.sqrt()


@torch.no_grad()
def decoded(pipe: Any, latents: Tensor) -> Tensor:
    """Pictures by the pipeline's own parts, as at the end of its call."""
    if hasattr(pipe, "transformer"):
        latents = pipe._unpack_latents(latents, 16, 16, pipe.vae_scale_factor)
    config = pipe.vae.config
    shifted = latents / config.scaling_factor + (config.shift_factor or 0.0)
    images: Tensor = pipe.image_processor.postprocess(
        pipe.vae.decode(shifted).sample, output_type="pt"
    )
    return images


@dataclass
class Round:
    step_index: int
    alive: list[int]
    scores: dict[str, list[float]]
    combined: list[float]
    kept: list[int]


def simulate(
    pictures: list[Tensor],
    rewards: Mapping[str, Reward],
    plan: Mapping[int, float],
    num_outputs: int = 1,
) -> list[Round]:
    """Prune after the steps of `plan`, {step index: share kept}, and judge what is finished."""
    rounds: list[Round] = []
    alive = list(range(len(pictures[0])))
    last = len(pictures) - 2
    for step in [*sorted(plan), last]:
        seen = pictures[-1] if step == last else pictures[step]
        scores = {name: reward(seen[alive], []).tolist() for name, reward in rewards.items()}
        combined = rank_sums(scores) if len(scores) > 1 else next(iter(scores.values()))
        count = num_outputs
        if step != last:
            count = max(1, round(len(alive) * plan[step]), num_outputs)
        ranked = sorted(range(len(alive)), key=lambda place: (-combined[place], place))
        kept = sorted(alive[place] for place in ranked[:count])
        rounds.append(Round(step, alive, scores, combined, kept))
        alive = kept
    return rounds


def rank_sums(scores: Mapping[str, list[float]]) -> list[float]:
    totals = [0.0] * len(next(iter(scores.values())))
    for column in scores.values():
        for place, score in enumerate(column):
            totals[place] += sum(other < score for other in column)
    return totals


def assert_agrees(trace: PromptTrace, rounds: list[Round]) -> None:
    assert [stage.step_index for stage in trace.stages] == [r.step_index for r in rounds]
    for stage, expected in zip(trace.stages, rounds, strict=True):
        assert stage.alive == tuple(expected.alive)
        assert stage.kept == tuple(expected.kept)
        assert stage.combined == pytest.approx(expected.combined, abs=TOLERANCE)
        assert stage.scores.keys() == expected.scores.keys()
        for name, values in expected.scores.items():
            assert stage.scores[name] == pytest.approx(values, abs=TOLERANCE)
    assert [stage.is_final for stage in trace.stages] == [False] * (len(rounds) - 1) + [True]
    best = rounds[-1].combined.index(max(rounds[-1].combined))
    assert trace.winner == rounds[-1].alive[best]


CASES: dict[str, tuple[str, dict[str, Any], dict[int, float], int]] = {
    "defaults": ("flux", {}, {3: 0.65, 4: 0.65, 6: 0.5}, 16),
    # 0.6 of the 11 calls that PNDM makes for 10 steps
    "defaults, sd15": ("sd15", {}, {3: 0.65, 4: 0.65, 7: 0.5}, 9),
    "early and hard": (
        "flux",
        {"checkpoints": (0.1, 0.3, 0.6), "keep": (0.4, 0.4, 0.5)},
        {1: 0.4, 3: 0.4, 6: 0.5},
        16,
    ),
    "halves of odd numbers": (
        "flux",
        {"checkpoints": (0.2, 0.7), "keep": (0.5, 0.5)},
        {2: 0.5, 7: 0.5},
        7,
    ),
    "three outputs": (
        "flux",
        {"checkpoints": (0.2, 0.5), "keep": (0.5, 0.1), "num_outputs": 3},
        {2: 0.5, 5: 0.1},
        8,
    ),
    "one candidate": ("flux", {}, {3: 0.65, 4: 0.65, 6: 0.5}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_it_prunes_as_the_simulation_does(case: str) -> None:
    family, options, plan, count = CASES[case]
    pipe, seeds = speaking(family), candidate_seeds(0, 0, count)
    outputs = options.get("num_outputs", 1)
    pictures = record(pipe, seeds)
    assert len(pictures) == STEPS + (2 if family == "sd15" else 1)  # PNDM makes one call more
    rounds = simulate(pictures, {"contrast": contrast}, plan, outputs)
    search = TTSnap(contrast, num_candidates=count, **options)
    output = search(pipe, PROMPT, output_type="pt", **CALL)
    (trace,) = output.trace.prompts
    assert_agrees(trace, rounds)
    assert output.seeds[0] == seeds[trace.winner]
    winners = [seeds.index(seed) for seed in output.seeds]
    assert close(output.results[0].samples, pictures[-1][winners])


def test_several_rewards_prune_by_rank_sum_at_every_checkpoint() -> None:
    pipe, seeds = speaking("flux"), candidate_seeds(0, 0, 12)
    rewards = {"contrast": contrast, "redness": redness}
    plan = {3: 0.65, 4: 0.65, 6: 0.5}
    rounds = simulate(record(pipe, seeds), rewards, plan)
    alone = simulate(record(pipe, seeds), {"contrast": contrast}, plan)
    assert rounds[0].kept != alone[0].kept
    output = TTSnap(rewards, num_candidates=12)(pipe, PROMPT, output_type="pt", **CALL)
    assert_agrees(output.trace.prompts[0], rounds)


@pytest.mark.parametrize("max_rows", [1, 3])
@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_micro_batches_change_nothing_but_the_number_of_calls(family: str, max_rows: int) -> None:
    pipe = speaking(family)
    whole = TTSnap(contrast, num_candidates=8)(pipe, PROMPT, output_type="pt", **CALL)
    small = TTSnap(contrast, num_candidates=8, max_rows=max_rows)(
        pipe, PROMPT, output_type="pt", **CALL
    )
    assert small.seeds == whole.seeds
    kept, expected = (
        [stage.kept for stage in output.trace.prompts[0].stages] for output in (small, whole)
    )
    assert kept == expected
    assert close(small.results[0].samples, whole.results[0].samples)
    assert small.cost.difference(whole.cost).keys() == {"denoiser_calls"}
    assert small.cost.denoiser_calls >= small.cost.nfe / max_rows


def test_keeping_all_is_best_of_n_bit_for_bit() -> None:
    pipe = speaking("flux")
    keep_all = TTSnap(
        contrast, num_candidates=6, checkpoints=(0.3, 0.5), keep=(1.0, 1.0), num_outputs=6
    )
    best_of_n = BestOfN(contrast, num_candidates=6, num_outputs=6)
    found, expected = (s(pipe, PROMPT, output_type="pt", **CALL) for s in (keep_all, best_of_n))
    assert found.seeds == expected.seeds
    assert found.rewards == expected.rewards
    assert torch.equal(found.results[0].samples, expected.results[0].samples)
    assert found.cost.nfe == expected.cost.nfe == 6 * STEPS


def test_equal_scores_keep_the_lower_candidates() -> None:
    def indifferent(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(images))

    output = TTSnap(indifferent, num_candidates=10)(speaking("flux"), PROMPT, **CALL)
    stages = output.trace.prompts[0].stages
    assert [stage.kept for stage in stages] == [tuple(range(len(stage.kept))) for stage in stages]
    assert output.seeds == candidate_seeds(0, 0, 1)


def test_all_faults_of_the_options_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TTSnap(contrast, checkpoints=(0.6, 0.3), keep=(0.5,), num_candidates=2, num_outputs=3)
    assert len(caught.value.problems) == 3
    for expected in ("`num_outputs` 3 exceeds", "but 1 keep ratios", "must ascend strictly"):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kepe": (0.5,)}, "Nearest: 'keep'"),
        ({"keep": (0.5, 0.5, 1.5)}, r"must lie in \(0, 1\]"),
        ({"num_candidates": 4, "budget": 100.0}, "both given; give one"),
        ({"config": TTSnapConfig(), "num_candidates": 4}, "give one of them"),
        ({"num_candidates": 0}, "num_candidates"),
        ({"budget_unit": "hours"}, r"nfe \| flops \| seconds"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        TTSnap(contrast, **options)


def test_it_is_registered_with_its_options() -> None:
    assert SAMPLERS.get("ttsnap") is TTSnap is gensift.TTSnap
    assert issubclass(TTSnap.config_class, SearchConfig)
    with pytest.raises(UnknownNameError, match="Nearest: 'ttsnap'"):
        SAMPLERS.get("ttsnip")
