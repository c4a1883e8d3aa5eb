"""The engine on a small Infinity: what is off changes nothing, and rows never mix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers.next_scale_search import (
    COLD,
    PROMPTS,
    SOFT,
    UNGUIDED,
    Brightness,
    generators,
    patches,
    searchable,
)
from torch import Tensor

import gensift
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.next_scale.pipeline import NextScalePipeline, NextScaleState
from gensift.pipelines.var.pipeline import VARPipeline
from gensift.randomness import candidate_seeds
from gensift.trace import Trace
from rewards.combine import CompositeReward
from samplers.autoregressive.search import NextScaleSearch
from samplers.autoregressive.tts_var import TTSVAR
from samplers.autoregressive.var_best_of_n import VARBestOfN
from samplers.autoregressive.var_importance import VARImportance
from samplers.registry import SAMPLERS

NAMES = ("var-best-of-n", "var-importance", "tts-var")


@pytest.fixture(scope="module", params=["infinity", "var"])
def pipe(request: pytest.FixtureRequest) -> Any:
    return searchable(request.param)


def family(pipe: Any) -> str:
    return "var" if isinstance(pipe, VARPipeline) else "infinity"


def prompts(pipe: Any) -> list[str]:
    return PROMPTS[family(pipe)]


def soft(pipe: Any) -> dict[str, Any]:
    return SOFT[family(pipe)]


def build(name: str, **options: Any) -> NextScaleSearch:
    reward = options.pop("reward", Brightness())
    if name == "tts-var":
        options.setdefault("embed", patches)
    sampler: Any = SAMPLERS.get(name)
    return sampler(reward, **{"num_candidates": 2, **options})  # type: ignore[no-any-return]


def run(pipe: Any, sampler: NextScaleSearch, **arguments: Any) -> Any:
    texts = arguments.pop("prompts", prompts(pipe))
    return sampler(pipe, texts, output_type="pt", **soft(pipe), **arguments)


def picture(pipe: Any, prompt: str, seed: int) -> Tensor:
    """What a plain call draws."""
    found: Tensor = pipe(prompt, generator=generators(seed), output_type="pt", **soft(pipe)).images
    return found[0]


def test_without_selections_it_is_the_plain_pipeline_bit_for_bit(pipe: Any) -> None:
    seeds = [seed for index in range(2) for seed in candidate_seeds(0, index, 3)]
    plain = pipe(
        prompts(pipe),
        num_images_per_prompt=3,
        generator=generators(*seeds),
        output_type="pt",
        **soft(pipe),
    ).images
    found = run(pipe, build("var-best-of-n", reward=None, num_candidates=3))
    assert torch.equal(torch.stack(found.samples), plain)
    assert found.seeds == seeds


@pytest.mark.parametrize("name", NAMES)
def test_best_of_what_is_drawn_wins(pipe: Any, name: str) -> None:
    found = run(pipe, build(name, num_outputs=2))
    for result in found.results:
        assert list(result.rewards) == sorted(result.rewards, reverse=True)
        means = [float(sample.mean()) * 10 for sample in result.samples]
        assert means == pytest.approx(list(result.rewards), abs=1e-5)


def test_the_seed_of_a_winner_gives_it_again(pipe: Any) -> None:
    found = run(pipe, build("var-best-of-n", num_candidates=4))
    for prompt, result in zip(prompts(pipe), found.results, strict=True):
        assert torch.allclose(picture(pipe, prompt, result.seeds[0]), result.samples[0], atol=1e-5)


def test_a_survivor_that_was_never_copied_is_what_its_seed_gives(pipe: Any) -> None:
    """Clusters and the best ones copy nobody, so that every survivor is such a one."""
    found = run(pipe, build("tts-var", draw="top-k", num_outputs=2))
    for prompt, result in zip(prompts(pipe), found.results, strict=True):
        for seed, sample in zip(result.seeds, result.samples, strict=True):
            assert torch.allclose(picture(pipe, prompt, seed), sample, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_planned_cost_is_spent_cost(pipe: Any, name: str) -> None:
    for options in ({}, {"num_candidates": 3, "num_outputs": 2}):
        sampler = build(name, **options)
        planned = sampler.plan(pipe, prompts(pipe), **soft(pipe)).cost
        spent = run(pipe, sampler).cost
        assert planned.difference(spent) == {}


def test_reduced_decodes_are_counted_apart(pipe: Any) -> None:
    sampler = build("tts-var", decode_side=3)
    spent = run(pipe, sampler).cost
    assert sampler.plan(pipe, prompts(pipe), **soft(pipe)).cost.difference(spent) == {}
    assert (spent.preview_decodes, spent.decodes) == (80, 4)


def test_judging_every_scale_decodes_each_candidate_once_a_scale(pipe: Any) -> None:
    reward = Recorder()
    sampler = build("tts-var", reward=reward, score_every_scale=True)
    cost = run(pipe, sampler).cost
    planned = sampler.plan(pipe, prompts(pipe), **soft(pipe)).cost
    assert planned.decodes == planned.reward_calls["recorder"] == 4 * (8 + 8 + 6 + 4 + 2 + 1)
    assert cost.decodes == sum(reward.asked)
    # After the first scale, which is a single token, some are alike.
    assert cost.decodes < planned.decodes
    assert reward.asked[-13:] == [4] * 13


def test_planned_work_by_hand(pipe: Any) -> None:
    """Six scales are drawn with 8 8 6 4 2 1 candidates for each finished one, guided."""
    cost = build("tts-var", num_candidates=1).plan(pipe, 1, **soft(pipe)).cost
    tokens = 8 * 1 + 8 * 4 + 6 * 9 + 4 * 16 + 2 * 25 + 1 * 36
    assert cost.tokens == 2 * tokens
    assert cost.decodes == 8 + 6 + 4 + 2 + 1
    assert cost.reward_calls == {"brightness": 4 + 2 + 1}
    unguided = build("tts-var", num_candidates=1).plan(
        pipe, 1, guidance_scale=UNGUIDED[family(pipe)]
    )
    assert unguided.cost.tokens == tokens
    assert unguided.num_seeds == 8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("max_rows", [1, 3, 5])
def test_max_rows_changes_nothing(pipe: Any, name: str, max_rows: int) -> None:
    whole, parts = (run(pipe, build(name, max_rows=rows)) for rows in (None, max_rows))
    assert whole.seeds == parts.seeds
    assert whole.rewards == pytest.approx(parts.rewards, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_together_are_prompts_alone(pipe: Any, name: str) -> None:
    seeds = [candidate_seeds(0, index, 16 if name == "tts-var" else 2) for index in range(2)]
    together = run(pipe, build(name), seeds=seeds)
    for index, prompt in enumerate(prompts(pipe)):
        alone = run(pipe, build(name), prompts=prompt, seeds=[seeds[index]])
        assert alone.results[0].seeds == together.results[index].seeds
        assert alone.rewards[0] == pytest.approx(together.results[index].rewards[0], abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_groups_of_unequal_sizes(pipe: Any, name: str) -> None:
    width = 8 if name == "tts-var" else 1
    seeds = [candidate_seeds(0, 0, 3 * width), candidate_seeds(0, 1, width)]
    found = run(pipe, build(name), seeds=seeds)
    assert [len(prompt.stages[-1].alive) for prompt in found.trace.prompts] == [3, 1]
    alone = run(pipe, build(name), prompts=prompts(pipe)[1], seeds=[seeds[1]])
    assert alone.results[0].seeds == found.results[1].seeds


def test_same_seeds_same_result(pipe: Any) -> None:
    first, second = (run(pipe, build("tts-var")) for _ in range(2))
    assert torch.equal(torch.stack(first.samples), torch.stack(second.samples))
    assert first.trace == second.trace


def begin(pipe: Any, *seeds: int, scales: int) -> NextScaleState:
    state = pipe.start(
        prompts(pipe)[0],
        num_images_per_prompt=len(seeds),
        generator=generators(*seeds),
        **soft(pipe),
    )
    for _ in range(scales):
        pipe.step(state)
    return state


def finish(pipe: Any, state: NextScaleState) -> Tensor:
    while not state.is_finished:
        pipe.step(state)
    return state.latents


def test_gathering_everyone_is_no_change(pipe: Any) -> None:
    plain, gathered = (begin(pipe, 1, 2, 3, scales=3) for _ in range(2))
    pipe.gather(gathered, [0, 1, 2], [None] * 3)
    assert torch.equal(finish(pipe, plain), finish(pipe, gathered))


@pytest.mark.parametrize("rows", [[2, 0], [1], [0, 2, 1]])
def test_gathered_rows_go_on_as_their_parents_alone(pipe: Any, rows: list[int]) -> None:
    state = begin(pipe, 1, 2, 3, scales=3)
    pipe.gather(state, rows, [None] * len(rows))
    latents = finish(pipe, state)
    for place, row in enumerate(rows):
        alone = finish(pipe, begin(pipe, row + 1, scales=3))
        assert torch.allclose(latents[place], alone[0], atol=1e-5)


def test_copies_part_at_the_next_scale(pipe: Any) -> None:
    state = begin(pipe, 1, 2, scales=3)
    pipe.gather(state, [1, 1], [None, 77])
    assert torch.equal(state.latents[0], state.latents[1])
    latents = finish(pipe, state)
    assert torch.allclose(latents[0], finish(pipe, begin(pipe, 2, scales=3))[0], atol=1e-5)
    assert not torch.allclose(latents[0], latents[1])


def test_the_cache_is_no_larger_than_what_is_drawn_until_the_next_choice(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    step = NextScalePipeline.step

    def watched(self: Any, state: NextScaleState, *rest: Any) -> None:
        step(self, state, *rest)
        held.append((state.cache.rows, state.cache.capacity, state.cache.length))

    monkeypatch.setattr(NextScalePipeline, "step", watched)
    run(pipe, build("tts-var", num_candidates=1), prompts=prompts(pipe)[0])
    ends = [1, 5, 14, 30, 55, 91]
    # Choices after the scales 1, 2, 3 and 4.
    expected = [(8, 5), (8, 5), (6, 14), (4, 30), (2, 55), (1, 91)]
    assert held == [(*pair, end) for pair, end in zip(expected, ends, strict=True)]


class Recorder:
    """A reward that notes which pictures it was asked for."""

    name = "recorder"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        self.asked.append(len(images))
        return images.mean((1, 2, 3))


def test_candidates_that_come_out_alike_are_judged_once(pipe: Any) -> None:
    reward = Recorder()
    sampler = build("tts-var", reward=reward)
    sampler(pipe, prompts(pipe), output_type="pt", **COLD[family(pipe)])
    assert reward.asked == [2, 2, 2]


def test_rewards_are_asked_for_all_prompts_together(pipe: Any) -> None:
    """As many at a time as are finished in the end, so that memory peaks no earlier."""
    reward = Recorder()
    run(pipe, build("tts-var", reward=reward))
    assert reward.asked == [4] * 4 + [4] * 2 + [4]


@pytest.fixture
def weights_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[float]]]:
    import samplers.autoregressive.selectors as selectors

    seen: list[list[float]] = []
    draw = selectors.draw_parents

    def watched(rule: Any, log_weights: Tensor, *rest: Any, **more: Any) -> list[int]:
        seen.append(torch.softmax(log_weights, 0).tolist())
        return draw(rule, log_weights, *rest, **more)

    monkeypatch.setattr(selectors, "draw_parents", watched)
    yield seen


class ByPlace:
    """A reward by the place of a picture in the batch."""

    def __init__(self, name: str, *rewards: float) -> None:
        self.name, self.rewards = name, rewards

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        return torch.tensor(self.rewards[: len(images)])


def test_resampling_weights_by_hand(pipe: Any, weights_seen: list[list[float]]) -> None:
    reward = ByPlace("imagereward", 0.0, 0.1)
    run(pipe, build("var-importance", reward=reward), prompts=prompts(pipe)[0])
    # ImageReward is multiplied by 10, as published.
    assert weights_seen[0] == pytest.approx([0.2689, 0.7311], abs=5e-5)


def test_other_rewards_are_measured_by_their_spread(
    pipe: Any, weights_seen: list[list[float]]
) -> None:
    reward = ByPlace("other", 0.30, 0.31)
    run(pipe, build("var-importance", reward=reward, strength=1.0), prompts=prompts(pipe)[0])
    assert weights_seen[0] == pytest.approx([0.1192, 0.8808], abs=5e-5)


def test_each_reward_has_its_strength(pipe: Any, weights_seen: list[list[float]]) -> None:
    rewards = {"a": ByPlace("a", 0.0, 1.0), "b": ByPlace("b", 0.0, 0.1)}
    sampler = build("var-importance", reward=rewards, strengths={"a": 2.0, "b": -10.0})
    run(pipe, sampler, prompts=prompts(pipe)[0])
    assert weights_seen[0] == pytest.approx([0.2689, 0.7311], abs=5e-5)


def test_history_follows_the_parents(pipe: Any) -> None:
    """Under `sum` a candidate's weight at the second choice holds its ancestor's first reward."""
    sampler = build(
        "var-importance",
        num_candidates=6,
        potential="sum",
        strength=3.0,
        standardize=False,
        resample_scales=(1, 3),
    )
    seen: list[list[Tensor]] = []
    import samplers.autoregressive.selectors as selectors

    original = selectors.log_weights

    def watched(potential: Any, history: Sequence[Tensor]) -> Tensor:
        seen.append(list(history))
        return original(potential, history)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selectors, "log_weights", watched)
        found = run(pipe, sampler, prompts=prompts(pipe)[0])
    first = found.trace.prompts[0].stages[0]
    scores = dict(zip(first.alive, first.combined, strict=True))
    expected = [3.0 * scores[parent] for parent in first.parents]
    assert seen[1][0].tolist() == pytest.approx(expected, abs=1e-5)


def test_trace_tells_the_ancestry_and_survives_json(pipe: Any) -> None:
    found = run(pipe, build("tts-var", keep_previews=True))
    for prompt in found.trace.prompts:
        assert len(prompt.seeds) == 16
        sizes = [(len(stage.alive), stage.grid) for stage in prompt.stages]
        assert sizes == [(16, (2, 2)), (12, (3, 3)), (8, (4, 4)), (4, (5, 5)), (2, (6, 6))]
        for before, after in zip(prompt.stages, prompt.stages[1:], strict=False):
            going_on = {place for place in before.alive if before.parent(place) is not None}
            assert set(after.alive) == going_on
        assert all(set(stage.previews) == set(stage.alive) for stage in prompt.stages)
    assert Trace.from_json(found.trace.to_json()) == found.trace


def test_the_tree_is_drawn(pipe: Any, tmp_path: Any) -> None:
    found = run(pipe, build("tts-var", keep_previews=True))
    found.trace.plot(tmp_path / "tree.png")
    assert (tmp_path / "tree.png").stat().st_size > 10_000


def test_progress_reaches_its_totals(pipe: Any) -> None:
    seen: dict[str, tuple[int, int]] = {}
    run(pipe, build("tts-var"), progress=lambda e, done, total: seen.update({e: (done, total)}))
    assert seen["scale"] == (6, 6)
    assert seen["decode"][0] == seen["decode"][1]
    assert seen["reward"][0] == seen["reward"][1]


def test_several_rewards_are_combined(pipe: Any) -> None:
    parts = {"light": Brightness(), "dark": lambda images, prompts: -images.mean((1, 2, 3))}
    found = run(pipe, build("tts-var", reward=parts))
    assert set(found.results[0].all_rewards[0]) == {"light", "dark"}
    composite = CompositeReward(parts)
    assert set(run(pipe, build("tts-var", reward=composite)).results[0].all_rewards[0]) == {
        "light",
        "dark",
    }


def test_clusters_need_no_reward(pipe: Any) -> None:
    sampler = build(
        "tts-var",
        reward=None,
        widths=(4, 2, 1, 1, 1, 1),
        cluster_scales=(1, 2),
        resample_scales=(),
    )
    found = run(pipe, sampler)
    assert len(found.samples) == 4
    assert found.rewards == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompt", ["", "  ", [], ["a red circle", ""]])
def test_an_empty_prompt_is_refused(pipe: Any, name: str, prompt: Any) -> None:
    with pytest.raises(ConfigError, match="give a text or a list of texts, none empty"):
        run(pipe, build(name), prompts=prompt)


def test_bad_options_are_refused_in_one_line(pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"`num_candidates` is 0; allowed"):
        TTSVAR(Brightness(), num_candidates=0)
    with pytest.raises(ConfigError, match=r"scale 5 is among the selections"):
        run(pipe, build("tts-var", resample_scales=(4, 5)))
    with pytest.raises(ConfigError, match=r"VARImportance chooses by a reward after scales 3, 4"):
        run(pipe, VARImportance(None))
    with pytest.raises(ConfigError, match=r"names the reward 'x'; this search is scored by brig"):
        run(pipe, build("var-importance", strengths={"x": 1.0}))
    with pytest.raises(ConfigError, match=r"`strength` and `strengths` are both given"):
        build("tts-var", strength=1.0, strengths={"brightness": 1.0})
    with pytest.raises(ConfigError, match=r"has 7 seeds; .* multiple of 8"):
        run(pipe, build("tts-var"), prompts=prompts(pipe)[0], seeds=[list(range(7))])
    with pytest.raises(ConfigError, match=r"`seeds` has 1 groups of \[8\] for 2 prompt"):
        run(pipe, build("tts-var"), seeds=[list(range(8))])


def test_a_search_of_scales_is_called_and_not_attached(pipe: Any) -> None:
    sampler: Any = build("tts-var")
    with (
        pytest.raises(
            ConfigError, match=r"TTSVAR is no diffusion search.*sampler\(pipe, prompts\)"
        ),
        gensift.attach(sampler, pipe),
    ):
        pass


def test_a_diffusion_pipeline_is_refused() -> None:
    with pytest.raises(UnsupportedPipelineError, match=r"dict does not draw scale by scale"):
        VARBestOfN(Brightness()).plan({})


def test_a_selection_scale_that_fails_leaves_the_pipeline_usable(pipe: Any) -> None:
    def broken(images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise RuntimeError("broken reward")

    before = run(pipe, build("var-best-of-n"))
    freed: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipe), "maybe_free_model_hooks", lambda self: freed.append(True))
        with pytest.raises(RuntimeError, match="broken reward"):
            run(pipe, build("tts-var", reward=broken))
    assert freed == [True]
    after = run(pipe, build("var-best-of-n"))
    assert torch.equal(torch.stack(before.samples), torch.stack(after.samples))
