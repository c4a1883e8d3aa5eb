"""Hook mode: what comes out of a pipeline call inside `attach`, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import diffusers
import pytest
import torch
from helpers.gated_runs import attached_state
from helpers.searches import PROMPT, close, contrast, generators, pictures, plain, sifted
from helpers.speaking_pipelines import SIZE, speaking
from helpers.tiny_pipelines import build
from torch import Tensor

import gensift
from gensift.errors import ConfigError, GensiftError, UnsupportedPipelineError
from gensift.randomness import candidate_seeds
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.ttsnap import TTSnap

FAMILIES = ("flux", "sd15")

SEEDS = (5, 3, 8, 1, 9, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_sifted_picture_comes_back_and_the_run_tells_all(family: str) -> None:
    pipe, search = speaking(family), TTSnap(contrast, num_candidates=16)
    planned = search.plan(pipe, 1, **SIZE)
    with gensift.attach(search, pipe) as run:
        images = pipe(PROMPT, num_images_per_prompt=16, output_type="pt", **SIZE).images
    output = run.output
    assert images.shape == (1, 3, 16, 16)
    assert torch.equal(output.results[0].samples, images)
    assert output.rewards == pytest.approx(contrast(images, [PROMPT]).tolist())
    assert output.results[0].all_rewards == ({"contrast": output.rewards[0]},)
    assert output.cost.difference(planned.cost) == {}
    (trace,) = output.trace.prompts
    assert trace.prompt == PROMPT
    assert trace.seeds == tuple(candidate_seeds(0, 0, 16))
    assert output.seeds == [trace.seeds[trace.winner]]
    assert [(len(stage.alive), len(stage.kept)) for stage in trace.stages] == [
        (stage.alive, stage.kept) for stage in planned.stages
    ]
    assert len(trace.stages[-1].alive) < 16
    assert close(images, plain(pipe, output.seeds))


def test_pictures_come_back_as_the_call_asked_for_them() -> None:
    pipe = speaking("flux")
    with gensift.attach(BestOfN(contrast), pipe) as run:
        returned = pipe(PROMPT, num_images_per_prompt=3, **SIZE, return_dict=False)
    assert isinstance(returned, tuple)
    (picture,) = returned[0]
    assert picture.size == (16, 16)
    assert run.output.images == [picture]


SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]] = {
    "a generator per candidate": ({}, {"generator": SEEDS}, SEEDS),
    "one generator": ({}, {"generator": (11,)}, tuple(candidate_seeds(11, 0, 6))),
    "no generator": ({"seed": 7}, {}, tuple(candidate_seeds(7, 0, 6))),
    "neither generator nor seed": ({}, {}, tuple(candidate_seeds(0, 0, 6))),
    "explicit seeds": ({"seeds": [SEEDS]}, {}, SEEDS),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", SOURCES)
def test_candidates_draw_from_what_the_caller_gave(family: str, source: str) -> None:
    attached, called, expected = SOURCES[source]
    pipe = speaking(family)
    if "generator" in called:
        made = generators(called["generator"])
        called = {"generator": made if len(made) > 1 else made[0]}
    with gensift.attach(BestOfN(contrast), pipe, **attached) as run:
        images = pictures(pipe, num_images_per_prompt=6, **called)
    candidates = plain(pipe, expected)
    best = int(contrast(candidates, []).argmax())
    assert run.output.trace.prompts[0].seeds == expected
    assert run.output.seeds == [expected[best]]
    assert close(images, candidates[[best]])


@pytest.mark.parametrize(
    ("search", "asked", "count"),
    [
        (BestOfN(contrast), {}, 16),
        (BestOfN(contrast, num_candidates=5), {}, 5),
        (BestOfN(contrast, num_candidates=5), {"num_images_per_prompt": 1}, 5),
        (BestOfN(contrast, num_candidates=5), {"num_images_per_prompt": 3}, 3),
        (BestOfN(contrast, budget=25), {}, 4),
    ],
)
def test_the_call_says_how_many_candidates_else_the_sampler(
    search: BestOfN, asked: dict[str, int], count: int
) -> None:
    images, output = sifted(search, speaking("flux"), **asked)
    assert len(images) == 1
    assert len(output.trace.prompts[0].seeds) == count


@pytest.mark.parametrize("given", [2, 5, 7])
def test_a_wrong_number_of_generators_is_refused(given: int) -> None:
    with pytest.raises(ConfigError, match=rf"{given} entries for 6 candidates; give one per"):
        sifted(
            BestOfN(contrast),
            speaking("flux"),
            num_images_per_prompt=6,
            generator=generators(range(given)),
        )


@pytest.mark.parametrize("seeds", [[SEEDS[:5]], [SEEDS, SEEDS], [[-1, *SEEDS[1:]]]])
def test_seeds_that_do_not_fit_the_candidates_are_refused(seeds: Any) -> None:
    pipe = speaking("flux")
    with (
        pytest.raises(ConfigError, match="seeds"),
        gensift.attach(BestOfN(contrast), pipe, seeds=seeds),
    ):
        pictures(pipe, num_images_per_prompt=6)


@pytest.mark.parametrize("negative_prompt", ["", "blurry", ["", "blurry"]])
@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_reaches_every_prompt_of_a_call(family: str, negative_prompt: Any) -> None:
    pipe, prompts = speaking(family), ["a red circle", "two blue squares"]
    name = "true_cfg_scale" if family == "flux" else "guidance_scale"
    arguments = {"num_images_per_prompt": 3, "negative_prompt": negative_prompt, name: 3.0}
    images, output = sifted(BestOfN(contrast), pipe, prompts, **arguments)
    for index, prompt in enumerate(prompts):
        own = negative_prompt if isinstance(negative_prompt, str) else negative_prompt[index]
        alone = {"negative_prompt": own, name: 3.0}
        assert close(images[[index]], plain(pipe, [output.seeds[index]], prompt, **alone))


class Stop(Exception):
    pass


def _failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
    raise Stop


def _returns(pipe: Any) -> None:
    with gensift.attach(TTSnap(contrast), pipe):
        pictures(pipe, num_images_per_prompt=4)


def _is_never_called(pipe: Any) -> None:
    with gensift.attach(TTSnap(contrast), pipe):
        raise Stop


def _fails_in_the_reward(pipe: Any) -> None:
    with gensift.attach(TTSnap(_failing), pipe):
        pictures(pipe, num_images_per_prompt=4)


def _fails_in_the_pipeline(pipe: Any) -> None:
    def stop(*args: Any) -> dict[str, Any]:
        raise Stop

    with gensift.attach(TTSnap(contrast), pipe):
        pictures(pipe, num_images_per_prompt=4, callback_on_step_end=stop)


def _is_refused(pipe: Any) -> None:
    with suppress(ConfigError), gensift.attach(TTSnap(contrast), pipe):
        pictures(pipe, num_images_per_prompt=4, generator=generators(range(3)))


def _is_attached_twice(pipe: Any) -> None:
    with (
        suppress(ConfigError),
        gensift.attach(TTSnap(contrast), pipe),
        gensift.attach(BestOfN(contrast), pipe),
    ):
        pictures(pipe, num_images_per_prompt=4)


ENDINGS = (
    _returns,
    _is_never_called,
    _fails_in_the_reward,
    _fails_in_the_pipeline,
    _is_refused,
    _is_attached_twice,
)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_is_as_before_after_a_run_that(family: str, ending: Any) -> None:
    pipe = speaking(family)
    before = plain(pipe, SEEDS[:3])
    cls, state, members = type(pipe), attached_state(pipe), set(vars(pipe))
    with suppress(Stop):
        ending(pipe)
    assert type(pipe) is cls
    assert "step" not in vars(pipe.scheduler)
    # The first hook that a module ever gets gives it an empty hook registry for good.
    assert [hooks for _, hooks in attached_state(pipe)[1:]] == [[]]
    assert [forward for forward, _ in attached_state(pipe)[1:]] == [f for f, _ in state[1:]]
    assert set(vars(pipe)) == members
    assert torch.equal(plain(pipe, SEEDS[:3]), before)


def test_an_exception_of_the_reward_reaches_the_caller() -> None:
    with pytest.raises(Stop):
        _fails_in_the_reward(speaking("flux"))


def test_an_attached_pipeline_still_looks_like_its_class() -> None:
    pipe = speaking("flux")
    with gensift.attach(BestOfN(contrast), pipe):
        assert isinstance(pipe, diffusers.FluxPipeline)
        assert type(pipe).__name__ == "FluxPipeline"
        assert pipe.config["transformer"] == ("diffusers", "FluxTransformer2DModel")


def test_the_output_needs_a_call_first() -> None:
    pipe = speaking("flux")
    with gensift.attach(BestOfN(contrast), pipe) as run:
        with pytest.raises(ConfigError, match="call the pipeline first"):
            _ = run.output
        with suppress(GensiftError):
            pictures(pipe, generator=generators(range(3)))
        with pytest.raises(ConfigError, match="call the pipeline first"):
            _ = run.output


def test_the_output_is_that_of_the_last_call() -> None:
    pipe = speaking("flux")
    with gensift.attach(BestOfN(contrast), pipe) as run:
        pictures(pipe, num_images_per_prompt=3)
        first = run.output
        images = pictures(pipe, "two blue squares", num_images_per_prompt=4)
    assert run.output.results[0].prompt == "two blue squares"
    assert torch.equal(run.output.results[0].samples, images)
    assert first.cost.nfe == 3 * 6 and run.output.cost.nfe == 4 * 6


def test_generators_used_before_are_not_reported_as_fresh_seeds() -> None:
    pipe, used = speaking("flux"), generators(SEEDS)
    with gensift.attach(BestOfN(contrast), pipe) as run:
        pictures(pipe, num_images_per_prompt=6, generator=used)
        try:
            images = pictures(pipe, num_images_per_prompt=6, generator=used)
        except ConfigError:
            return  # refusing them keeps the promise too
    assert close(images, plain(pipe, run.output.seeds))


REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "ready latents": ((PROMPT,), {"latents": torch.zeros(4, 16, 16)}, "`latents` was given"),
    "no prompt": ((), {}, "was called without `prompt`"),
    "an empty list of prompts": (([],), {}, "was called without `prompt`"),
    "an unknown argument": ((PROMPT,), {"step": 3}, "unexpected keyword argument 'step'"),
    "a prompt given twice": ((PROMPT,), {"prompt": PROMPT}, "multiple values"),
    "embeddings alone": ((), {"prompt_embeds": torch.zeros(4, 7, 32)}, "attach"),
    "fewer candidates than outputs": ((PROMPT,), {"num_images_per_prompt": 2}, "raise the number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args, kwargs, expected = REFUSED[name]
    pipe = speaking("flux")
    monkeypatch.setattr(pipe.transformer, "forward", _failing)
    kwargs = {"num_images_per_prompt": 4, **SIZE, **kwargs}
    with (
        pytest.raises(ConfigError, match=expected),
        gensift.attach(BestOfN(contrast, num_outputs=3), pipe),
    ):
        pipe(*args, **kwargs)


@pytest.mark.parametrize("family", ["flux", "sd15", "wan"])
@pytest.mark.parametrize("prompts", [["a"], ["a", "b"]], ids=len)
def test_ready_embeddings_are_judged_by_the_prompts_of_attach(
    family: str, prompts: list[str]
) -> None:
    seen: list[str] = []

    def recording(images: Tensor, texts: Sequence[str]) -> Tensor:
        seen.extend(texts)
        return contrast(images, texts)

    pipe, call_kwargs = build(family)
    with gensift.attach(BestOfN(recording), pipe, prompts=prompts) as run:
        found = pipe(**call_kwargs(SEEDS), output_type="pt", return_dict=False)[0]
    everything = pipe(**call_kwargs(SEEDS), output_type="pt", return_dict=False)[0]
    judged = everything[:, everything.shape[1] // 2] if everything.ndim == 5 else everything
    scores, count = contrast(judged, []), len(SEEDS) // len(prompts)
    best = [int(scores[i : i + count].argmax()) + i for i in range(0, len(SEEDS), count)]
    assert seen == [prompt for prompt in prompts for _ in range(count)]
    assert run.output.seeds == [SEEDS[row] for row in best]
    assert close(found, everything[best])


@pytest.mark.parametrize("given", [None, 1, 5])
def test_ready_embeddings_need_one_generator_per_candidate(given: int | None) -> None:
    pipe, call_kwargs = build("flux")
    kwargs = call_kwargs(SEEDS[:4])
    kwargs["generator"] = {None: None, 1: generators([0])[0]}.get(given, generators(range(5)))
    with (
        pytest.raises(ConfigError, match="list of one per candidate"),
        gensift.attach(BestOfN(contrast), pipe, prompts=["a", "b"]),
    ):
        pipe(**kwargs)


STOCHASTIC = {
    "flux, stochastic flow Euler": (
        "flux",
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    ),
    "flux, flow LCM": ("flux", lambda: diffusers.FlowMatchLCMScheduler(shift=3.0)),
    "wan, SDE solver": (
        "wan",
        lambda: diffusers.DPMSolverMultistepScheduler(
            algorithm_type="sde-dpmsolver++",
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
        ),
    ),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_that_no_seed_decides_is_refused(name: str) -> None:
    family, scheduler = STOCHASTIC[name]
    pipe, call_kwargs = build(family)
    pipe.scheduler = scheduler()
    with (
        pytest.raises(UnsupportedPipelineError, match="could not be reproduced from its seed"),
        gensift.attach(BestOfN(contrast), pipe, prompts=["a"]),
    ):
        pipe(**call_kwargs(SEEDS))


@pytest.mark.parametrize("scheduler", ["sde-dpm++", "euler-ancestral", "lcm"])
def test_noise_from_the_candidates_own_generators_is_welcome(scheduler: str) -> None:
    pipe = speaking("sd15", scheduler)
    images, output = sifted(TTSnap(contrast), pipe, num_images_per_prompt=6)
    assert close(images, plain(pipe, output.seeds))


def test_a_call_that_ends_early_is_an_error_not_an_unsifted_result() -> None:
    pipe = speaking("flux")

    def interrupt(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return values

    with pytest.raises(UnsupportedPipelineError, match="ended before step 6"):
        sifted(BestOfN(contrast), pipe, num_images_per_prompt=3, callback_on_step_end=interrupt)


def test_an_enabled_cache_of_diffusers_is_refused() -> None:
    pipe = speaking("flux")
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(UnsupportedPipelineError, match="disable_cache"):
        sifted(BestOfN(contrast), pipe, num_images_per_prompt=3)


@pytest.mark.parametrize("reward", ["shapes-clip", [contrast, contrast], {}, {"a": "b"}])
def test_what_is_no_reward_is_refused_at_once(reward: Any) -> None:
    with pytest.raises(ConfigError, match="give"):
        BestOfN(reward)


def test_blocks_may_be_left_in_any_order() -> None:
    pipe = speaking("flux")
    plain_class, before = type(pipe), attached_state(pipe)
    first, second = gensift.attach(BestOfN(contrast), pipe), gensift.attach(TTSnap(contrast), pipe)
    outer = first.__enter__()
    inner = second.__enter__()
    pictures(pipe, num_images_per_prompt=6)
    first.__exit__(None, None, None)
    pictures(pipe, num_images_per_prompt=4)
    assert len(inner.output.trace.prompts[0].seeds) == 4
    with pytest.raises(ConfigError, match="No pipeline call"):
        _ = outer.output
    second.__exit__(None, None, None)
    assert type(pipe) is plain_class and attached_state(pipe) == before
    assert torch.equal(pictures(pipe, generator=generators([3])), plain(pipe, [3]))


def test_a_direct_call_swaps_no_class() -> None:
    pipe, seen = speaking("flux"), []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.append(type(pipe))
        return contrast(images, prompts)

    BestOfN(reward, num_candidates=2)(pipe, PROMPT, **SIZE)
    assert set(seen) == {type(speaking("flux"))}


@pytest.mark.parametrize("prompts", [PROMPT, [PROMPT], [PROMPT, PROMPT]])
def test_negative_prompts_that_do_not_fit_the_prompts_are_refused(prompts: Any) -> None:
    search, three = BestOfN(contrast, num_candidates=2), ["dull", "blurry", "dark"]
    with pytest.raises(ConfigError, match=r"`negative_prompt` has 3 texts for \d prompt"):
        search(speaking("sd15"), prompts, negative_prompt=three, **SIZE)
