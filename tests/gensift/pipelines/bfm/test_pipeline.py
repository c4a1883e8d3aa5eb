"""The pipeline: its arguments, its features, and searches around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.blockwise import NUM_CLASSES, bfm, generators, latents_of, pipeline, sit
from helpers.gated_runs import gated_run, plain_images, plain_latents, relative_error

import gensift
from gensift.errors import ConfigError
from gensift.pipelines.bfm.pipeline import BFMPipeline
from samplers.diffusion.search_over_paths import SearchOverPaths

SHORT = {"num_inference_steps": 9, "guidance_scale": 2.0}
MODES: dict[str, dict[str, Any]] = {
    "full": {},
    "frn": {"feature_mode": "frn"},
    "hold": {"feature_mode": "hold", "refresh_every": 2},
    "adaptive": {"feature_mode": "frn", "refresh_threshold": 0.15},
}


@pytest.fixture(scope="module")
def pipe() -> BFMPipeline:
    return pipeline(bfm())


def evaluations(pipe: BFMPipeline, **arguments: Any) -> dict[str, int]:
    arguments = SHORT | {"class_labels": [0, 1], "generator": generators([0, 1])} | arguments
    return pipe(output_type="latent", **arguments).evaluations


def test_classes_are_prompted_by_name(pipe: BFMPipeline) -> None:
    named = pipe(
        ["A red  circle.", "a dog"], generator=generators([0, 1]), output_type="pt", **SHORT
    ).images
    numbered = pipe(
        class_labels=[0, 4], generator=generators([0, 1]), output_type="pt", **SHORT
    ).images
    assert torch.equal(named, numbered)
    assert named.shape == (2, 3, 16, 16) and 0 <= float(named.min()) <= float(named.max()) <= 1
    with pytest.raises(
        ConfigError, match=r"'a red circel' names no class.*Nearest: 'a red circle'"
    ):
        pipe("a red circel")


def test_outputs(pipe: BFMPipeline) -> None:
    arguments = {"class_labels": 1, "num_images_per_prompt": 2, **SHORT}
    assert [image.size for image in pipe(**arguments).images] == [(16, 16)] * 2
    assert pipe(**arguments, output_type="np").images.shape == (2, 16, 16, 3)
    assert len(pipe(**arguments, return_dict=False)) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_row_alone_is_the_row_in_a_batch(pipe: BFMPipeline, mode: str) -> None:
    seeds = [0, 1, 2, 3]
    options = SHORT | MODES[mode] | {"guidance_interval": (0.1, 0.6)}
    whole = latents_of(pipe, seeds, **options)
    for row, seed in enumerate(seeds):
        assert relative_error(whole[row : row + 1], latents_of(pipe, [seed], **options)) < 1e-4


@pytest.mark.parametrize("mode", ["frn", "hold"])
def test_one_step_per_segment_needs_no_approximation(pipe: BFMPipeline, mode: str) -> None:
    options = {"num_inference_steps": 3, "guidance_scale": 2.0}
    full = latents_of(pipe, [0, 1], **options)
    assert torch.equal(latents_of(pipe, [0, 1], feature_mode=mode, **options), full)


@pytest.mark.parametrize("mode", ["frn", "hold"])
def test_a_refresh_at_every_step_is_the_full_mode(pipe: BFMPipeline, mode: str) -> None:
    full = latents_of(pipe, [0, 1], **SHORT)
    for always in ({"refresh_every": 1}, {"refresh_threshold": 0.0}):
        assert torch.equal(latents_of(pipe, [0, 1], feature_mode=mode, **always, **SHORT), full)
    assert not torch.allclose(latents_of(pipe, [0, 1], feature_mode=mode, **SHORT), full)


def test_the_approximation_by_hand() -> None:
    """Two steps in each of two segments, guided: features with and without a class apart."""
    model = bfm(num_segments=2)
    pipe = pipeline(model)
    found = latents_of(pipe, [1], num_inference_steps=4, guidance_scale=2.0, feature_mode="frn")
    x = torch.randn(1, 4, 8, 8, generator=generators([1])[0])
    kept: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for index, sigma in enumerate([1.0, 0.75, 0.5, 0.25]):
            segment, share = index // 2, (index % 2) * 0.5
            velocity = []
            for label in (NUM_CLASSES, 1):
                c = model.condition(torch.tensor([sigma]), torch.tensor([label]))
                if share == 0:
                    kept[label] = model.trunk_features(x, c)
                features = kept[label] + share * model.residual(x, c)
                velocity.append(model.velocity(x, c, features, segment))
            x = x - 0.25 * (velocity[0] + 2 * (velocity[1] - velocity[0]))
    assert relative_error(found, x) < 1e-5


def test_what_is_evaluated(pipe: BFMPipeline) -> None:
    """Two pictures, three segments of three steps, guidance doubles rows."""
    assert evaluations(pipe) == {"trunk": 36, "frn": 0, "stack": 36}
    assert evaluations(pipe, feature_mode="frn") == {"trunk": 12, "frn": 24, "stack": 36}
    assert evaluations(pipe, feature_mode="hold", guidance_scale=1.0) == {
        "trunk": 6,
        "frn": 0,
        "stack": 18,
    }
    twice = evaluations(pipe, feature_mode="hold", refresh_every=2)
    assert twice == {"trunk": 24, "frn": 0, "stack": 36}
    heun = evaluations(pipe, feature_mode="frn", solver="heun")
    assert heun == {"trunk": 12, "frn": 60, "stack": 72}


def test_adaptive_refresh_runs_the_trunk_for_some_rows_only(pipe: BFMPipeline) -> None:
    counts = [
        evaluations(pipe, feature_mode="hold", refresh_threshold=threshold)["trunk"]
        for threshold in (0.0, 0.15, 0.3, 1e6)
    ]
    assert counts[0] == 36 and counts[-1] == 12
    assert sorted(counts, reverse=True) == counts and 12 < counts[1] < 36


class StepSnapshot:
    """Records what the transformer is called with."""

    def __init__(self, pipe: BFMPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        inner = pipe.transformer.forward

        def forward(**arguments: Any) -> Any:
            output = inner(**arguments)
            self.calls.append(arguments | {"output": output})
            return output

        monkeypatch.setattr(pipe.transformer, "forward", forward)


def test_guidance_switched_in_mid_segment_uses_the_right_features(
    pipe: BFMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One segment of sigmas 1, .9, ..., .1; guidance from .75 to .35."""
    pipe = pipeline(bfm(num_segments=1))
    watched = StepSnapshot(pipe, monkeypatch)
    latents_of(
        pipe,
        [0, 1],
        num_inference_steps=10,
        guidance_scale=2.0,
        guidance_interval=(0.35, 0.75),
        feature_mode="hold",
    )
    rows = [len(call["hidden_states"]) for call in watched.calls]
    assert rows == [2] * 3 + [4] * 4 + [2] * 3
    # The trunk runs at the start, and when guidance finds no features without a class.
    runs = [index for index, call in enumerate(watched.calls) if "features" not in call]
    assert runs == [0, 3]
    first, both = watched.calls[0]["output"].features, watched.calls[3]["output"].features
    assert all(torch.equal(call["features"], first) for call in watched.calls[1:3])
    assert all(torch.equal(call["features"], both) for call in watched.calls[4:7])
    # Without guidance it goes on with those of the class, which are the second half.
    assert all(torch.equal(call["features"], both[2:]) for call in watched.calls[7:])
    labels = watched.calls[3]["class_labels"].tolist()
    assert labels == [NUM_CLASSES, NUM_CLASSES, 0, 1]


def test_guidance_without_an_interval_in_reach_is_no_guidance(pipe: BFMPipeline) -> None:
    off = latents_of(pipe, [0], num_inference_steps=6, guidance_scale=1.0)
    never = latents_of(
        pipe, [0], num_inference_steps=6, guidance_scale=3.0, guidance_interval=(0.01, 0.02)
    )
    assert torch.equal(never, off)


def test_the_segment_is_told_and_not_guessed(
    pipe: BFMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = StepSnapshot(pipe, monkeypatch)
    latents_of(pipe, [0], steps_per_segment=[1, 3, 2], guidance_scale=1.0)
    assert [call["segment"] for call in watched.calls] == [0, 1, 1, 1, 2, 2]


def test_a_callback_may_change_latents(pipe: BFMPipeline) -> None:
    def reset(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 4 else {}

    for mode in ("full", "hold"):
        options = {**SHORT, "feature_mode": mode, "callback_on_step_end": reset}
        one, two = (latents_of(pipe, [seed], class_labels=[0], **options) for seed in (0, 1))
        # What was before the change is forgotten, features too.
        assert torch.equal(one, two)


def test_a_row_that_is_replaced_does_not_keep_its_features(
    pipe: BFMPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As searches do that copy good rows over bad ones, here in the middle of a segment."""

    def copy(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"][[0, 0, 2]]} if step == 3 else {}

    watched = StepSnapshot(pipe, monkeypatch)
    latents_of(pipe, [0, 1, 2], **SHORT, feature_mode="hold", callback_on_step_end=copy)
    refreshed = [call.get("refresh") for call in watched.calls]
    assert [index for index, rows in enumerate(refreshed) if rows is not None] == [4]
    assert refreshed[4] is not None and refreshed[4].tolist() == [False, True, False] * 2


def call_kwargs(seeds: list[int], **options: Any) -> dict[str, Any]:
    labels = [seed % NUM_CLASSES for seed in seeds]
    return {"class_labels": labels, "generator": generators(seeds), **SHORT, **options}


@pytest.mark.parametrize(("kind", "mode"), [*(("bfm", mode) for mode in MODES), ("sit", "full")])
def test_the_row_gate_prunes_it(kind: str, mode: str) -> None:
    pipe = pipeline(bfm() if kind == "bfm" else sit())
    options = MODES[mode] | {"guidance_interval": (0.2, 1.0)}
    seeds = list(range(6))
    plain = plain_images(pipe, call_kwargs(seeds, **options))
    assert torch.equal(gated_run(pipe, call_kwargs(seeds, **options), plan={}).images, plain)
    for max_rows in (None, 3):
        run = gated_run(pipe, call_kwargs(seeds, **options), max_rows=max_rows)
        for place, seed in enumerate([2, 5]):
            alone = plain_latents(pipe, call_kwargs([seed], **options))
            assert relative_error(run.latents[place : place + 1], alone) < 1e-4


def brightness(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return images.mean((1, 2, 3))


@pytest.mark.parametrize("mode", ["full", "frn"])
@pytest.mark.parametrize("name", ["BestOfN", "TTSnap", "FKSteering"])
def test_searches_take_it(pipe: BFMPipeline, name: str, mode: str) -> None:
    sampler = getattr(gensift, name)(reward=brightness, num_candidates=4)
    arguments = SHORT | {"feature_mode": mode}
    found = sampler(pipe, ["a cat", "a dog"], **arguments)
    plan = sampler.plan(pipe, 2, **arguments)
    assert plan.num_steps == 9 and found.cost.nfe == plan.cost.nfe
    if sampler.is_reproducible:
        best = found.results[0]
        again = pipe("a cat", generator=generators([best.seeds[0]]), **arguments).images[0]
        assert np.abs(np.asarray(again, int) - np.asarray(best.samples[0], int)).max() <= 1


@pytest.mark.parametrize("mode", ["full", "hold"])
def test_loops_that_go_back_up_keep_their_segments(mode: str, pipe: BFMPipeline) -> None:
    sampler = SearchOverPaths(reward=brightness, num_candidates=2)
    found = sampler(pipe, "a cat", **SHORT, feature_mode=mode)
    assert len(found.results[0].samples) == 1


def test_steps_of_single_segments_are_planned(pipe: BFMPipeline) -> None:
    sampler = gensift.BestOfN(reward=brightness, num_candidates=2)
    found = sampler(pipe, "a cat", steps_per_segment=[1, 2, 1], guidance_scale=1.0)
    assert found.cost.nfe == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give one of `prompt` and `class_labels`"),
        ({"class_labels": 5}, "whole numbers from 0 to 4"),
        ({"class_labels": 0, "feature_mode": "fast"}, "allowed: full, frn, hold"),
        ({"class_labels": 0, "solver": "rk4"}, "allowed: euler, heun, sde"),
        ({"class_labels": 0, "guidance_scale": 0.5}, "a number from 1"),
        ({"class_labels": 0, "guidance_interval": (0.7, 0.2)}, "the lower one first"),
        ({"class_labels": 0, "refresh_every": 2}, "need `feature_mode`"),
        ({"class_labels": 0, "num_inference_steps": 2}, "from 3, one step in each"),
        ({"class_labels": [0, 1], "generator": generators([0])}, "1 entries for 2 pictures"),
        ({"class_labels": 0, "latents": torch.zeros(2, 4, 8, 8)}, "this call needs"),
    ],
)
def test_wrong_arguments_are_refused(
    pipe: BFMPipeline, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pipe(**arguments)


def test_models_without_features_refuse_to_keep_them() -> None:
    with pytest.raises(ConfigError, match="is dense and has no trunk"):
        pipeline(sit())(class_labels=0, feature_mode="hold")
    with pytest.raises(ConfigError, match="has no FRN"):
        pipeline(bfm(frn_depth=0))(class_labels=0, feature_mode="frn")
