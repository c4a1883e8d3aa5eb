"""Diverse decoding in the loop: what it leaves alone, what it parts, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.llada import EOS, MASK, PROMPTS, Oracle, decoded, ids_of, pipeline
from torch import Tensor

from gensift.errors import ConfigError
from samplers.text import odd
from samplers.text.call import Batch, BatchProcessor
from samplers.text.decode import TextDecode
from samplers.text.diversity.candidates import Candidates, Diversified
from samplers.text.diversity.diversify import Diversifier
from samplers.text.engine import StepView
from samplers.text.odd import ODD

SEEDS = [[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34]]
CALL: dict[str, Any] = {"gen_length": 10, "num_inference_steps": 5, "temperature": 1.0}
POLICIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "blocks": ({}, {"block_length": 4}),
    "threshold": ({}, {"threshold": 0.3, "block_length": 5}),
    "guided": ({}, {"guidance_scale": 1.5}),
    "greedy": ({}, {"temperature": 0.0}),
    "prefix": ({"kv": "prefix"}, {"block_length": 4, "threshold": 0.3}),
    "dual": ({"kv": "dual"}, {"block_length": 4, "threshold": 0.3}),
    "elastic": ({"kv": "elastic"}, {"block_length": 4, "threshold": 0.3}),
    "adablock": ({"window": "adablock", "adablock": {"threshold": 0.02}}, {"threshold": 0.3}),
    "sliding": ({"window": "sliding", "sliding_length": 4, "kv": "elastic"}, {}),
    "random order": ({"confidence": "random"}, {}),
    "clean": ({}, {"threshold": 0.3}),
}


def run(
    pipe: Any, own: dict[str, Any], call: dict[str, Any], prompts: Any = None, seeds: Any = None
) -> Tensor:
    """Tokens of `odd`, `(prompts, rows, gen_length)`."""
    prompts = list(PROMPTS) if prompts is None else prompts
    seeds = SEEDS if seeds is None else seeds
    sampler = own.pop("sampler", ODD)(**own)
    found = decoded(pipe, sampler, prompts, seeds=seeds, **CALL | call)
    return found.view(len(prompts), -1, found.shape[1])


def plain(pipe: Any, own: dict[str, Any], call: dict[str, Any]) -> Tensor:
    return run(pipe, {**own, "sampler": TextDecode}, call)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("off", [{"alpha": 0.0}, {"strategy": "none"}])
def test_switched_off_it_is_plain_decoding(off: dict[str, Any], name: str) -> None:
    pipe, (own, call) = pipeline(layers=2), POLICIES[name]
    assert torch.equal(run(pipe, {**own, **off}, call), plain(pipe, own, call))


@pytest.mark.parametrize("name", POLICIES)
def test_the_first_text_is_plain_and_the_others_are_pushed(name: str) -> None:
    pipe, (own, call) = pipeline(layers=2), POLICIES[name]
    wanted = plain(pipe, own, call)
    for source in ("pushed", "clean"):
        found = run(pipe, {**own, "alpha": 32.0, "confidence_source": source}, call)
        assert torch.equal(found[:, 0], wanted[:, 0])
        assert not torch.equal(found[:, 1:], wanted[:, 1:])
        assert MASK not in found


@pytest.mark.parametrize("name", POLICIES)
def test_prompts_do_not_push_each_other(name: str) -> None:
    pipe, (own, call) = pipeline(layers=2), POLICIES[name]
    batched = run(pipe, {**own}, call)
    for index, prompt in enumerate(PROMPTS):
        alone = run(pipe, {**own}, call, [prompt], [SEEDS[index]])
        assert torch.equal(alone[0], batched[index])


@pytest.mark.parametrize("most", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("name", ["plain", "blocks", "threshold", "dual"])
def test_batches_with_history_are_one_batch(name: str, most: int) -> None:
    pipe, (own, call) = pipeline(layers=2), POLICIES[name]
    whole = run(pipe, {**own}, call)
    assert torch.equal(run(pipe, {**own, "max_rows": most}, call), whole)


@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize("seed", [11, 13, 21, 35, 38, 49])
def test_batches_are_one_batch_when_texts_end_at_different_steps(
    seed: int, block: int | None
) -> None:
    """Rows of a prompt may have ended while those of another one in their batch go on.

    An earlier batch may take more steps than a later one, or fewer.
    """
    pipe = pipeline(Oracle(vocabulary=8, seed=seed, scale=2.0))
    call = {"num_inference_steps": 10, "block_length": block}
    whole = run(pipe, {"alpha": 64.0}, call)
    assert EOS in whole
    for most in (1, 3, 5):
        assert torch.equal(run(pipe, {"alpha": 64.0, "max_rows": most}, call), whole)


class PromptByPrompt(Diversifier):
    """The true one, one prompt at a time."""

    def of_prompts(
        self, candidates: Candidates, seeds: Sequence[Sequence[int]], histories: Sequence[Any]
    ) -> list[Diversified]:
        prompts = zip(seeds, histories, strict=True)
        return [
            self(candidates.of_prompt(index, own), history)
            for index, (own, history) in enumerate(prompts)
        ]


def test_the_final_history_knows_all_earlier_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of one row: each begins with one direction per text before it."""
    sizes: list[tuple[int, int]] = []

    class Counting(PromptByPrompt):
        def __call__(self, candidates: Candidates, history: Tensor | None = None) -> Diversified:
            known = 0 if history is None else len(history)
            sizes.append((candidates.seeds[0], known))
            return super().__call__(candidates, history)

    monkeypatch.setattr(odd, "Diversifier", Counting)
    for seed in (35, 38):
        pipe = pipeline(Oracle(vocabulary=8, seed=seed, scale=2.0))
        call = {"num_inference_steps": 10, "block_length": 2}
        run(pipe, {"max_rows": 1, "history": "final"}, call, PROMPTS[:1], SEEDS[:1])
    assert set(sizes) == {(11, 0), (12, 1), (13, 2), (14, 3)}


def test_the_final_history_keeps_batches_apart() -> None:
    """The second batch knows the first: it is not what it is alone, and not plain."""
    pipe = pipeline(layers=2)
    options = {"max_rows": 2, "history": "final"}
    found = run(pipe, {**options}, {}, PROMPTS[:1], SEEDS[:1])[0]
    first, second = (
        run(pipe, {}, {}, PROMPTS[:1], [seeds])[0] for seeds in (SEEDS[0][:2], SEEDS[0][2:])
    )
    assert torch.equal(found[:2], first)
    assert not torch.equal(found[2], second[0]) and not torch.equal(found[2:], second)
    again = run(pipe, {**options}, {}, PROMPTS[:1], SEEDS[:1])[0]
    assert torch.equal(found, again)
    steps = run(pipe, {"max_rows": 2}, {}, PROMPTS[:1], SEEDS[:1])[0]
    assert not torch.equal(found, steps)


def test_equal_texts_part_or_stay() -> None:
    """At temperature 0 only the seeds differ."""
    pipe, cold = pipeline(layers=2), {"temperature": 0.0}
    parted = run(pipe, {"on_duplicate": "random"}, cold)
    stayed = run(pipe, {"on_duplicate": "skip"}, cold)
    wanted = plain(pipe, {}, cold)
    for index in range(3):
        assert len(parted[index].unique(dim=0)) == 4
        assert torch.equal(stayed[index], wanted[index])
        assert len(stayed[index].unique(dim=0)) == 1


def test_texts_differ_more_than_plain_ones() -> None:
    pipe = pipeline(layers=2)
    seeds = [list(range(16))]

    def tokens(found: Tensor) -> int:
        return len(found.unique())

    pushed = run(pipe, {"alpha": 64.0}, {"temperature": 0.3}, PROMPTS[:1], seeds)
    alike = run(pipe, {"alpha": 0.0}, {"temperature": 0.3}, PROMPTS[:1], seeds)
    assert tokens(pushed) > tokens(alike)


# --- what the diversifier is given ---------------------------------------------------------------


class Listening(PromptByPrompt):
    """The true one, which notes what it was given."""

    heard: list[Candidates]
    protected: set[int]

    def __init__(self, *given: Any, protected: Sequence[int] = (), **named: Any) -> None:
        super().__init__(*given, protected=protected, **named)
        type(self).protected = set(protected)

    def __call__(self, candidates: Candidates, history: Tensor | None = None) -> Diversified:
        type(self).heard.append(candidates)
        return super().__call__(candidates, history)


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> type[Listening]:
    Listening.heard = []
    monkeypatch.setattr(odd, "Diversifier", Listening)
    return Listening


@pytest.mark.parametrize("steps", [10, 5, 2, 1])
def test_strength_falls_as_published_with_even_quotas(
    listening: type[Listening], steps: int
) -> None:
    call = {"num_inference_steps": steps, "eos_early_stop": False}
    run(pipeline(layers=1), {"alpha": 8.0}, call, PROMPTS[:1], SEEDS[:1])
    assert [candidates.step for candidates in listening.heard] == list(range(steps))
    for index, candidates in enumerate(listening.heard):
        wanted = torch.full((4,), 8.0 * (1 - index / steps))
        assert torch.allclose(candidates.strength, wanted)


def test_strength_falls_with_what_is_committed(listening: type[Listening]) -> None:
    """Blocks and a threshold: each row by the share of its own response."""
    call = {"block_length": 4, "threshold": 0.2, "eos_early_stop": False}
    run(pipeline(layers=2), {"alpha": 8.0}, call, PROMPTS[:1], SEEDS[:1])
    strengths = []
    for candidates in listening.heard:
        committed = candidates.is_committed.float().mean(1)
        assert torch.allclose(candidates.strength, 8 * (1 - committed))
        assert torch.equal(candidates.is_committed, candidates.tokens != MASK)
        strengths.append(candidates.strength)
        # Only what the block may commit is open, and it is masked.
        for row in range(4):
            at = candidates.positions[row][candidates.is_open[row]]
            assert not bool(candidates.is_committed[row, at].any())
    assert any(len(strength.unique()) > 1 for strength in strengths)


def test_special_tokens_are_protected_and_seeds_are_those_of_rows(
    listening: type[Listening],
) -> None:
    pipe = pipeline(layers=1)
    run(pipe, {"max_rows": 3}, {})
    assert listening.protected == {0, 1, 2, 3} == set(pipe.special_ids)
    cond = [list(candidates.seeds) for candidates in listening.heard if candidates.step == 0]
    # Batches of three rows, by prompt.
    assert cond == [
        [11, 12, 13], [14], [21, 22], [23, 24], [31], [32, 33, 34],
    ]  # fmt: skip


def test_rows_that_have_ended_go_on_pushing(listening: type[Listening]) -> None:
    pipe = pipeline(Oracle(vocabulary=8, seed=1))
    run(pipe, {}, {"num_inference_steps": 10}, PROMPTS[:1], SEEDS[:1])
    ended = 0
    for candidates in listening.heard:
        assert len(candidates.tokens) == 4
        for row in range(4):
            if not bool(candidates.is_open[row].any()):
                ended += 1
                assert bool(candidates.is_committed[row].all())
                assert candidates.strength[row] == 0
    assert ended > 0


# --- whose confidence -----------------------------------------------------------------------------

NOISE = 6 * torch.randn(10, 10, 40, generator=torch.Generator().manual_seed(5))
"""What is added in each step to each position of the response."""


class Noisy(ODD):
    """Moves logits by known numbers."""

    def prepare(self, pipeline: Any, settings: Any) -> Any:
        class Processor(BatchProcessor):
            def __call__(self, logits: Tensor, step: StepView) -> Tensor:
                return logits + NOISE[step.index][step.columns.index]

        def processors(batch: Batch) -> list[BatchProcessor]:
            return [Processor()]

        return processors


@pytest.mark.parametrize("source", ["clean", "pushed"])
@torch.no_grad()
def test_confidence_is_that_of_the_logits_asked_for(source: Any) -> None:
    """Greedy, one token a step, written out: tokens by the moved logits, order by the others."""
    pipe, orders = pipeline(layers=2), {}
    for kind in ("clean", "pushed"):
        tokens, order = ids_of(PROMPTS[1]) + [MASK] * 10, []
        for step in range(10):
            clean = pipe.transformer(torch.tensor([tokens])).logits[0, 2:]
            clean[:, MASK] = -torch.inf
            pushed = clean + NOISE[step]
            best = pushed.argmax(-1)
            shares = (clean if kind == "clean" else pushed).softmax(-1)
            masked = [at for at in range(10) if tokens[2 + at] == MASK]
            surest = max(masked, key=lambda at: (float(shares[at, best[at]]), -at))
            tokens[2 + surest] = int(best[surest])
            order.append(surest)
        orders[kind] = (tokens[2:], order)
    assert orders["clean"] != orders["pushed"]
    call = {"temperature": 0.0, "num_inference_steps": 10, "eos_early_stop": False}
    own = {"sampler": Noisy, "confidence_source": source}
    found = run(pipe, own, call, [PROMPTS[1]], [[1]])
    assert found[0, 0].tolist() == orders[source][0]


def test_a_clean_threshold_commits_no_more_than_plain_decoding() -> None:
    """The first step: a push that only sharpens does not raise what is compared."""
    pipe, counts = pipeline(layers=2), {}
    call = {"temperature": 0.0, "threshold": 0.3}
    for source in ("clean", "pushed"):
        open_at: list[int] = []
        sampler = ODD(confidence_source=source, alpha=64.0)
        sampler(
            pipe,
            PROMPTS[0],
            seeds=[SEEDS[0]],
            on_step=lambda step, to=open_at: to.append(" ".join(step.texts).count("_")),
            **CALL | call,
        )
        counts[source] = open_at[0]
    assert counts["clean"] >= counts["pushed"]


# --- strategies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["odd", "dpp", "orthogonal-projection", "random-probe"])
@pytest.mark.parametrize("features", ["probabilities", "embeddings"])
def test_strategies_run_and_part(strategy: str, features: str) -> None:
    pipe = pipeline(layers=2)
    found = run(pipe, {"strategy": strategy, "features": features, "alpha": 32.0}, {})
    wanted = plain(pipe, {}, {})
    assert not torch.equal(found, wanted) and MASK not in found
    if strategy != "dpp":
        assert torch.equal(found[:, 0], wanted[:, 0])


def test_what_has_no_basis_takes_one_batch() -> None:
    pipe = pipeline(layers=1)
    with pytest.raises(ConfigError, match="dpp needs all 16 texts") as caught:
        run(pipe, {"strategy": "dpp", "max_rows": 3}, {})
    assert "\n" not in str(caught.value)


def test_planned_cost_is_that_of_plain_decoding() -> None:
    pipe = pipeline(layers=1)
    call = CALL | {"eos_early_stop": False}
    sampler = ODD(num_candidates=4, max_rows=3)
    planned = sampler.plan(pipe, list(PROMPTS), **call).cost
    assert planned.difference(sampler(pipe, list(PROMPTS), **call).cost) == {}
    assert planned == TextDecode(num_candidates=4).plan(pipe, list(PROMPTS), **call).cost
