"""The sampler `bfm`: plain calls with its options, planned exactly; and pruning such calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.blockwise import CLASSES, bfm, pipeline, sit
from helpers.tiny_pipelines import build
from torch import Tensor

from gensift.errors import ConfigError, UnsupportedPipelineError
from samplers.diffusion.attach import attach
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.bfm import BFM
from samplers.diffusion.config import BFMConfig
from samplers.diffusion.ttsnap import TTSnap

PROMPT = CLASSES[1]
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "frn": {"feature_mode": "frn"},
    "hold": {"feature_mode": "hold", "steps_per_segment": (3,)},
    "uneven segments": {"feature_mode": "frn", "steps_per_segment": (1, 3, 2)},
    "refreshed by age": {"feature_mode": "hold", "refresh_every": 2, "steps_per_segment": (4,)},
    "refreshed by distance": {"feature_mode": "frn", "refresh_threshold": 0.2},
    "guided for a part": {"guidance_interval": (0.3, 0.8), "feature_mode": "frn"},
    "heun": {"solver": "heun", "feature_mode": "hold"},
    "sde": {"solver": "sde", "steps_per_segment": (3,)},
    "heun, guided for a part": {"solver": "heun", "guidance_interval": (0.5, 1.0)},
}


def contrast(images: Tensor, prompts: list[str]) -> Tensor:
    return images.std(dim=(1, 2, 3))


def as_called(options: dict[str, Any]) -> dict[str, Any]:
    found = dict(options)
    if len(found.get("steps_per_segment", ())) == 1:
        (found["steps_per_segment"],) = found["steps_per_segment"]
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_a_seed_in_a_plain_call_gives_the_winner_again(name: str) -> None:
    pipe, options = pipeline(bfm()), OPTIONS[name]
    arguments = {"num_inference_steps": 6, "guidance_scale": 2.0}
    sampler = BFM(contrast, num_candidates=5, num_outputs=2, **options)
    plan = sampler.plan(pipe, PROMPT, **arguments)
    found = sampler(pipe, PROMPT, seed=3, output_type="pt", **arguments)
    assert found.cost.nfe == plan.cost.nfe
    for image, seed in zip(found.images, found.seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        plain = pipe(
            PROMPT, generator=[generator], output_type="pt", **arguments, **as_called(options)
        ).images[0]
        assert torch.allclose(image, plain, atol=1e-3)
    assert found.rewards[0] >= found.rewards[1]


def test_without_options_it_is_best_of_n() -> None:
    pipe, arguments = pipeline(bfm()), {"num_inference_steps": 3, "output_type": "pt"}
    ours = BFM(contrast, num_candidates=4)(pipe, PROMPT, **arguments)
    plain = BestOfN(contrast, num_candidates=4)(pipe, PROMPT, **arguments)
    assert ours.seeds == plain.seeds and torch.equal(ours.images[0], plain.images[0])


def test_a_dense_model_has_one_mode() -> None:
    found = BFM(contrast, num_candidates=2)(pipeline(sit()), PROMPT, num_inference_steps=2)
    assert len(found.images) == 1
    with pytest.raises(ConfigError, match="dense"):
        BFM(contrast, num_candidates=2, feature_mode="frn")(pipeline(sit()), PROMPT)


def test_options_hold_in_calls_that_are_not_ours() -> None:
    pipe = pipeline(bfm())
    sampler = BFM(contrast, num_candidates=3, feature_mode="hold", solver="heun")
    with attach(sampler, pipe, seed=1) as run:
        pipe(PROMPT, num_inference_steps=3, guidance_scale=1.0)
    assert run.output.cost.nfe == 3 * 3 * 2


@pytest.mark.parametrize("mode", ["frn", "hold"])
def test_pruned_candidates_change_no_survivor(mode: str) -> None:
    pipe = pipeline(bfm())
    arguments = {"num_inference_steps": 9, "feature_mode": mode, "output_type": "pt"}
    sampler = TTSnap(contrast, num_candidates=6, checkpoints=(0.3, 0.6), keep=(0.5, 0.7))
    found = sampler(pipe, PROMPT, seed=2, **arguments)
    generator = torch.Generator().manual_seed(found.seeds[0])
    plain = pipe(PROMPT, generator=[generator], **arguments).images[0]
    assert torch.allclose(found.images[0], plain, atol=1e-3)
    assert found.cost.nfe == sampler.plan(pipe, PROMPT, **arguments).cost.nfe


@pytest.mark.parametrize("argument", [{"solver": "heun"}, {"guidance_interval": (0, 0.5)}])
def test_searches_that_prune_want_equal_steps(argument: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedPipelineError, match="equal steps"):
        TTSnap(contrast, num_candidates=4)(pipeline(bfm()), PROMPT, **argument)


def test_another_family_is_refused() -> None:
    with pytest.raises(UnsupportedPipelineError, match="no blockwise flow model"):
        BFM(contrast, num_candidates=2)(build("flux")[0], PROMPT, num_inference_steps=2)


def test_an_option_is_given_once() -> None:
    sampler = BFM(contrast, feature_mode="hold")
    with pytest.raises(ConfigError, match="give it once"):
        sampler(pipeline(bfm()), PROMPT, feature_mode="frn")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"feature_mode": "fast"}, "full . frn . hold"),
        ({"solver": "dpm"}, "euler . heun . sde"),
        ({"feature_mode": "full", "refresh_every": 2}, "need `feature_mode`"),
        ({"guidance_interval": (0.8, 0.1)}, "the lower"),
        ({"refresh_every": 0}, "refresh_every"),
    ],
)
def test_faults_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        BFMConfig(**options)


def test_a_budget_counts_what_is_not_guided() -> None:
    sampler = BFM(contrast, budget=60, guidance_interval=(0.3, 0.8))
    plan = sampler.plan(pipeline(bfm()), PROMPT, num_inference_steps=6, guidance_scale=2.0)
    # Of six steps (1, 5/6, 4/6, 3/6, 2/6, 1/6) three are guided: 9 rows a candidate.
    assert plan.num_candidates == 6 and plan.cost.nfe == 54
