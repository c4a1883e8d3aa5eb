"""Hook mode: what comes out of a pipeline call inside `attach`, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import diffusers
import pytest
import torch
from helpers.gated_runs import attached_state
from helpers.speaking_pipelines import SIZE, speaking
from helpers.tiny_pipelines import build
from torch import Tensor

import gensift
from gensift.errors import ConfigError, GensiftError, RewardError, UnsupportedPipelineError
from gensift.randomness import candidate_seeds
from samplers.diffusion.attach import AttachedRun
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.ttsnap import TTSnap

PROMPT = "a red circle"
FAMILIES = ("flux", "sd15")
SEEDS = (5, 3, 8, 1, 9, 2)
TOLERANCE = 2e-5  # pictures in [0, 1]; batch-size rounding of random networks


def contrast(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.flatten(1).std(1)


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pictures(pipe: Any, prompt: Any = PROMPT, **arguments: Any) -> Tensor:
    """What a pipeline call returns, `(rows, 3, height, width)` in [0, 1]."""
    images: Tensor = pipe(prompt, **{**SIZE, **arguments}, output_type="pt").images
    return images


def plain(pipe: Any, seeds: Sequence[int], prompt: str = PROMPT, **arguments: Any) -> Tensor:
    """The pictures of `seeds`, nothing attached."""
    count = {"num_images_per_prompt": len(seeds), "generator": generators(seeds)}
    return pictures(pipe, prompt, **count, **arguments)


def sifted(search: DiffusionSearch, pipe: Any, *args: Any, **arguments: Any) -> Any:
    """Pictures of one attached call, and the run's output."""
    with gensift.attach(search, pipe) as run:
        images = pictures(pipe, *args, **arguments)
    return images, run.output


def close(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool((left - right).abs().max() <= TOLERANCE)


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


def test_each_prompt_of_a_call_is_searched_as_if_it_were_alone() -> None:
    pipe, prompts = speaking("flux"), ["a red circle", "two blue squares"]
    seeds = [candidate_seeds(0, index, 7) for index in range(2)]
    both, together = sifted(TTSnap(contrast), pipe, prompts, num_images_per_prompt=7)
    assert len(both) == len(together.results) == 2
    for index, prompt in enumerate(prompts):
        with gensift.attach(TTSnap(contrast), pipe, seeds=[seeds[index]]) as run:
            alone = pictures(pipe, prompt, num_images_per_prompt=7)
        assert together.results[index].prompt == prompt
        assert together.results[index].seeds == run.output.results[0].seeds
        assert together.seeds[index] in seeds[index]
        assert close(both[[index]], alone)
        assert close(both[[index]], plain(pipe, [together.seeds[index]], prompt))
        stages = together.trace.prompts[index].stages
        assert [stage.kept for stage in stages] == [
            stage.kept for stage in run.output.trace.prompts[0].stages
        ]


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


def test_without_a_reward_all_samples_come_back_in_order() -> None:
    pipe = speaking("sd15")
    with gensift.attach(BestOfN(None), pipe, seeds=[SEEDS]) as run:
        images = pictures(pipe, num_images_per_prompt=6)
    assert torch.equal(images, plain(pipe, SEEDS))
    assert run.output.seeds == list(SEEDS)
    assert run.output.rewards == []
    assert run.output.cost.reward_calls == {}


@pytest.mark.parametrize("search", [BestOfN, TTSnap])
def test_the_best_three_come_back_best_first(search: type[DiffusionSearch]) -> None:
    pipe = speaking("flux")
    seeds = candidate_seeds(0, 0, 8)
    images, output = sifted(search(contrast, num_outputs=3), pipe, num_images_per_prompt=8)
    scores = contrast(images, []).tolist()
    assert len(images) == 3
    assert scores == sorted(scores, reverse=True)
    assert output.rewards == pytest.approx(scores)
    assert close(images, plain(pipe, output.seeds))
    if search is BestOfN:
        by_score = contrast(plain(pipe, seeds), []).argsort(descending=True).tolist()
        assert output.seeds == [seeds[candidate] for candidate in by_score[:3]]


def test_several_rewards_are_combined_by_rank_sum() -> None:
    pipe, seeds = speaking("flux"), range(10)
    candidates = plain(pipe, seeds)
    columns = {
        "contrast": contrast(candidates, []).tolist(),
        "redness": redness(candidates, []).tolist(),
    }
    totals = [
        sum(sum(other < column[row] for other in column) for column in columns.values())
        for row in seeds
    ]
    expected = sorted(seeds, key=lambda row: (-totals[row], row))
    alone = [max(seeds, key=column.__getitem__) for column in columns.values()]
    assert expected[0] not in alone  # or one reward would do
    search = BestOfN({"contrast": contrast, "redness": redness}, num_outputs=10)
    _, output = sifted(search, pipe, num_images_per_prompt=10, generator=generators(seeds))
    assert output.seeds == expected
    assert output.rewards == [totals[row] for row in expected]
    for found, row in zip(output.results[0].all_rewards, expected, strict=True):
        assert found == pytest.approx({name: column[row] for name, column in columns.items()})
    assert output.cost.reward_calls == {"contrast": 10, "redness": 10}


@pytest.mark.parametrize("spoiled", [math.nan, math.inf, -math.inf])
def test_candidates_without_a_finite_score_never_survive(spoiled: float) -> None:
    pipe = speaking("flux")
    arguments = {"num_images_per_prompt": 10}
    _, healthy = sifted(TTSnap(redness), pipe, **arguments)
    first = healthy.trace.prompts[0].stages[0]
    threshold = sorted(first.combined)[2]

    def broken_above(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = redness(images, prompts)
        return torch.where(scores >= threshold, spoiled, scores)

    images, output = sifted(TTSnap(broken_above), pipe, **arguments)
    stages = output.trace.prompts[0].stages
    assert len(first.kept) > 2
    assert set(stages[0].kept) == {c for c in range(10) if first.combined[c] < threshold}
    for stage in stages:
        score_of = dict(zip(stage.alive, stage.scores["broken_above"], strict=True))
        assert all(math.isfinite(score_of[candidate]) for candidate in stage.kept)
    assert math.isfinite(output.rewards[0])
    assert close(images, plain(pipe, output.seeds))


def test_no_finite_score_at_all_is_one_clear_error() -> None:
    def broken(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(images),), math.nan)

    expected = rf"^Reward broken gave no finite score for any of the 4 candidates of '{PROMPT}' "
    with pytest.raises(RewardError, match=expected) as caught:
        sifted(TTSnap(broken), speaking("flux"), num_images_per_prompt=4)
    assert "\n" not in str(caught.value)


def test_a_prompt_without_a_finite_score_is_named_among_several() -> None:
    def broken_for_blue(images: Tensor, prompts: Sequence[str]) -> Tensor:
        is_blue = torch.tensor(["blue" in prompt for prompt in prompts])
        return torch.where(is_blue, math.nan, contrast(images, prompts))

    with pytest.raises(RewardError, match="3 candidates of 'a blue cross'"):
        sifted(
            BestOfN(broken_for_blue),
            speaking("flux"),
            [PROMPT, "a blue cross"],
            num_images_per_prompt=3,
        )


def test_every_row_is_judged_against_its_own_prompt_in_any_batch() -> None:
    seen: list[str] = []

    def recording(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.extend(prompts)
        return contrast(images, prompts)

    search = BestOfN(recording, max_rows=2)
    sifted(search, speaking("flux"), ["a", "b"], num_images_per_prompt=3)
    assert seen == ["a"] * 3 + ["b"] * 3


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
    assert isinstance(run, AttachedRun)


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


@pytest.mark.parametrize("search", [BestOfN(contrast), TTSnap(contrast), BestOfN(None)])
def test_progress_counts_up_to_its_own_totals(search: DiffusionSearch) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def progress(event: str, done: int, total: int) -> None:
        seen.setdefault(event, []).append((done, total))

    pipe = speaking("flux")
    with gensift.attach(search, pipe, progress=progress) as run:
        pictures(pipe, ["a", "b"], num_images_per_prompt=6)
    for reports in seen.values():
        done = [count for count, _ in reports]
        assert done == sorted(done)
        assert {total for _, total in reports} == {done[-1]}
    assert seen["denoise"][-1][0] == run.output.cost.nfe
    judging = set() if search.reward is None else {"decode", "reward"}
    assert seen.keys() == {"denoise", *judging}
