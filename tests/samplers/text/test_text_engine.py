"""The engine is the pipeline's loop where both can, and rows never mix."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from helpers.llada import (
    EOS,
    MASK,
    NEWLINE,
    PROMPTS,
    Oracle,
    called,
    decoded,
    ids_of,
    pipeline,
    tokenizer,
    transformer,
)
from torch import Tensor

from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.randomness import candidate_seeds
from samplers.text.decode import TextDecode

SEEDS = [[11, 12], [13, 14], [15, 16]]
FLAT = [seed for group in SEEDS for seed in group]
GRID = tuple(itertools.product((0.0, 1.0), (None, 4, 5), (None, 0.3), (1.0, 1.5), (False, True)))
"""Temperature, block length, threshold, guidance, shifted logits."""


def as_call(**options: Any) -> dict[str, Any]:
    return {"gen_length": 11, "num_inference_steps": 7, "temperature": 1.0, **options}


def run(pipe: Any, prompts: Any = PROMPTS, seeds: Any = SEEDS, **options: Any) -> Tensor:
    """Tokens of a `decode` sampler; what is no option of it belongs to the call."""
    own = {key: options.pop(key) for key in list(options) if key in OWN or "." in key}
    return decoded(pipe, TextDecode(**own), list(prompts), seeds=seeds, **as_call(**options))


OWN = (
    "window", "adablock", "kv", "elastic", "commit", "confidence", "attention", "end_of_text",
    "factor", "sliding_length", "max_rows",
)  # fmt: skip


# --- the plain pipeline ---------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "block", "threshold", "guidance", "shift"), GRID)
def test_plain_decoding_is_the_pipeline(
    temperature: float, block: int | None, threshold: float | None, guidance: float, shift: bool
) -> None:
    pipe = pipeline(layers=2, shift_logits=shift)
    options = as_call(
        temperature=temperature, block_length=block, threshold=threshold, guidance_scale=guidance
    )
    wanted = called(pipe, list(PROMPTS), FLAT, num_texts_per_prompt=2, **options)
    assert len(wanted.unique(dim=0)) == (6 if temperature else 3)
    assert torch.equal(run(pipe, **options), wanted)


def test_texts_and_seeds_belong_to_their_prompts() -> None:
    pipe = pipeline(layers=2)
    output = TextDecode(num_candidates=3)(pipe, list(PROMPTS), seed=5, **as_call())
    for index, (prompt, result) in enumerate(zip(PROMPTS, output.results, strict=True)):
        assert result.prompt == prompt and result.rewards == ()
        assert list(result.seeds) == candidate_seeds(5, index, 3)
        plain = called(pipe, prompt, result.seeds, num_texts_per_prompt=3, **as_call())
        texts = pipe.tokenizer.batch_decode(plain, skip_special_tokens=True)
        assert list(result.samples) == texts


def test_a_reward_sorts_the_texts() -> None:
    """Of four texts the two longest come back, the first of equals first."""
    pipe = pipeline(layers=2)
    asked: list[tuple[list[str], list[str]]] = []

    def words(texts: Any, prompts: Any) -> Tensor:
        asked.append((texts, prompts))
        return torch.tensor([float(len(text.split())) for text in texts])

    sampler = TextDecode(words, num_candidates=4, num_outputs=2)
    output = sampler(pipe, list(PROMPTS[:2]), **as_call(temperature=1.5))
    ((texts, prompts),) = asked
    assert prompts == [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4
    assert output.cost.reward_calls == {"words": 8}
    for index, result in enumerate(output.results):
        own = texts[4 * index : 4 * index + 4]
        best = sorted(range(4), key=lambda at: (-len(own[at].split()), at))[:2]
        assert list(result.samples) == [own[at] for at in best]
        assert list(result.rewards) == [float(len(own[at].split())) for at in best]
        (stage,) = output.trace.prompts[index].stages
        assert stage.kept == tuple(sorted(best)) and stage.is_final


# --- rows -----------------------------------------------------------------------------------------

POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "blocks": {"block_length": 4},
    "adablock": {"window": "adablock", "adablock": {"threshold": 0.02, "shortest": 2}},
    "sliding": {"window": "sliding", "sliding_length": 3},
    "prefix": {"kv": "prefix", "block_length": 4},
    "dual": {"kv": "dual", "block_length": 4},
    "elastic": {"kv": "elastic", "window": "sliding", "sliding_length": 4},
    "elastic heads": {"kv": "elastic", "elastic": {"drift_axis": "heads", "gamma": 0.95}},
    "elastic, many watched": {"kv": "elastic", "elastic": {"track": 6, "gamma": 0.97}},
    "elastic, all masks": {"kv": "elastic", "block_length": 4, "elastic": {"all_masks": True}},
    "threshold": {"threshold": 0.3},
    "factor": {"commit": "factor", "factor": 0.9},
    "threshold or quota": {"commit": "threshold-or-quota", "threshold": 0.3},
    "margin": {"confidence": "margin"},
    "entropy": {"confidence": "entropy"},
    "random": {"confidence": "random"},
    "late": {"end_of_text": "late"},
    "block-causal": {"attention": "block-causal", "block_length": 4},
    "context-causal": {"attention": "context-causal", "block_length": 4},
    "block-causal, cached": {"attention": "block-causal", "block_length": 4, "kv": "dual"},
    "context-causal, cached": {"attention": "context-causal", "block_length": 4, "kv": "prefix"},
    "all": {"kv": "dual", "window": "adablock", "threshold": 0.4, "guidance_scale": 1.5},
}


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_a_row_alone_is_the_row_in_a_batch(name: str, shift: bool) -> None:
    """Rows of one prompt and of prompts of other lengths, so that it is padded, and in parts."""
    pipe, options = pipeline(layers=3, shift_logits=shift), POLICIES[name]
    batched = run(pipe, **options)
    assert len(batched.unique(dim=0)) == 6
    for row in (0, 3, 4):
        alone = run(pipe, [PROMPTS[row // 2]], [[FLAT[row]]], **options)
        assert torch.equal(alone[0], batched[row])
    assert torch.equal(run(pipe, max_rows=4, **options), batched)


def test_the_order_of_prompts_is_of_no_importance() -> None:
    pipe = pipeline(layers=2)
    there = run(pipe, PROMPTS, SEEDS, kv="dual", block_length=4)
    back = run(pipe, PROMPTS[::-1], SEEDS[::-1], kv="dual", block_length=4)
    assert torch.equal(there.view(3, 2, -1), back.view(3, 2, -1).flip(0))


# --- caches ---------------------------------------------------------------------------------------

CACHES: dict[str, dict[str, Any]] = {
    "prefix": {"kv": "prefix"},
    "dual": {"kv": "dual"},
    "elastic": {"kv": "elastic"},
    "elastic heads": {"kv": "elastic", "elastic": {"drift_axis": "heads"}},
    "adablock": {"window": "adablock", "adablock": {"threshold": 1e9}},
    "adablock, prefix": {"window": "adablock", "adablock": {"threshold": 1e9}, "kv": "prefix"},
    "adablock, dual": {"window": "adablock", "adablock": {"threshold": 1e9}, "kv": "dual"},
    "adablock, elastic": {"window": "adablock", "adablock": {"threshold": 1e9}, "kv": "elastic"},
}


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("changes", [{}, {"threshold": 0.3}, {"guidance_scale": 1.5}])
@pytest.mark.parametrize("name", CACHES)
def test_with_one_layer_caches_are_exact(name: str, changes: dict[str, Any], shift: bool) -> None:
    """Keys and values of the first layer depend on their own token alone."""
    pipe = pipeline(layers=1, shift_logits=shift)
    options = {"block_length": 4, **changes}
    assert torch.equal(run(pipe, **options, **CACHES[name]), run(pipe, **options))


@pytest.mark.parametrize("window", ["blocks", "sliding"])
@pytest.mark.parametrize("axis", ["keys", "heads"])
@pytest.mark.parametrize("shift", [False, True])
def test_elastic_that_always_refreshes_is_no_cache(shift: bool, axis: str, window: str) -> None:
    pipe = pipeline(layers=3, shift_logits=shift)
    elastic = {"refresh_every": 1, "drift_axis": axis, "gamma": 2.0}
    options = {"window": window, "block_length": 4, "guidance_scale": 1.3}
    exact = run(pipe, **options)
    assert torch.equal(run(pipe, kv="elastic", elastic=elastic, **options), exact)


def test_deep_caches_are_approximations() -> None:
    """Else the tests of exactness would prove nothing."""
    pipe = pipeline(layers=3)
    exact = run(pipe, block_length=6)
    for kv in ("prefix", "dual", "elastic"):
        assert not torch.equal(run(pipe, kv=kv, block_length=6), exact)


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("kv", ["prefix", "dual"])
@pytest.mark.parametrize("attention", ["block-causal", "context-causal"])
def test_with_causal_blocks_caches_are_exact(
    attention: str, kv: str, shift: bool, threshold: float | None
) -> None:
    """Prompts of 5, 2 and 7 tokens: blocks of four begin in the prompt."""
    pipe = pipeline(layers=3, shift_logits=shift)
    options = {"attention": attention, "block_length": 4, "threshold": threshold}
    assert torch.equal(run(pipe, kv=kv, **options), run(pipe, **options))


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("attention", ["block-causal", "context-causal"])
@torch.no_grad()
def test_causal_blocks_are_those_of_nested_loops(attention: str, prompt: str) -> None:
    """Greedy decoding of one row, one token at a time, with the mask written out."""
    pipe, length, size = pipeline(layers=3), 10, 4
    tokens = ids_of(prompt) + [MASK] * length
    count = len(tokens) - length
    while MASK in tokens:
        left = tokens.index(MASK)
        if attention == "block-causal":
            # Blocks are counted from the start of the prompt.
            first, end = left // size * size, min(left // size * size + size, len(tokens))
        else:
            first = count + (left - count) // size * size
            end = min(first + size, len(tokens))
        allowed = torch.zeros(1, len(tokens), len(tokens), dtype=torch.bool)
        for asking in range(len(tokens)):
            for key in range(len(tokens)):
                if attention == "block-causal":
                    allowed[0, asking, key] = key // size <= asking // size
                elif first <= asking < end:
                    allowed[0, asking, key] = key < end
                else:
                    allowed[0, asking, key] = key <= asking
        logits = pipe.transformer(torch.tensor([tokens]), attention_mask=allowed).logits[0]
        logits[:, MASK] = -torch.inf
        shares, best = logits.softmax(-1).max(-1)
        masked = [at for at in range(max(first, count), end) if tokens[at] == MASK]
        surest = max(masked, key=lambda at: (float(shares[at]), -at))
        tokens[surest] = int(best[surest])
        if EOS in tokens[count:] and MASK not in tokens[count : tokens.index(EOS, count)]:
            end_at = tokens.index(EOS, count)
            tokens[end_at:] = [EOS] * (len(tokens) - end_at)
    options = {"gen_length": 10, "num_inference_steps": 10, "temperature": 0.0}
    found = run(pipe, [prompt], [[0]], attention=attention, block_length=size, **options)
    assert found[0].tolist() == tokens[count:]


# --- what tokens there are ------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_the_mask_is_never_written(name: str) -> None:
    pipe = pipeline(layers=2)
    with torch.no_grad():  # a model that would like to
        pipe.transformer.parts["ff_out"].weight[MASK] *= 3
    assert MASK not in run(pipe, **POLICIES[name])


@pytest.mark.parametrize("stops", [False, True])
def test_the_end_may_be_banned(stops: bool) -> None:
    pipe = pipeline(Oracle(vocabulary=6))
    options: dict[str, Any] = {"eos_early_stop": stops}
    assert EOS in run(pipe, **options)
    assert EOS not in run(pipe, end_of_text="ban", **options)


def test_a_late_end_is_committed_after_all_else() -> None:
    """Rows by an oracle: whenever an end is committed, nothing else was proposed."""
    pipe = pipeline(Oracle(vocabulary=6))
    proposals: list[tuple[Tensor, Tensor]] = []
    model = pipe.transformer
    plain = model.forward

    def watched(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = plain(input_ids, attention_mask)
        proposals.append((input_ids.clone(), logits.clone()))
        return logits

    model.forward = watched
    late = run(
        pipe, [PROMPTS[1]], [[1]], end_of_text="late", temperature=0.0, gen_length=8,
        num_inference_steps=8, eos_early_stop=False,
    )  # fmt: skip
    ends = 0
    states = [tokens for tokens, _ in proposals] + [torch.tensor([[9, 9, *late[0].tolist()]])]
    for (tokens, logits), after in zip(proposals, states[1:], strict=True):
        logits[..., MASK] = -torch.inf
        best = logits.argmax(-1)[0]
        masked = [at for at in range(2, 10) if tokens[0, at] == MASK]
        (at,) = [at for at in masked if after[0, at] != MASK]
        if after[0, at] == EOS:
            ends += 1
            assert all(best[other] == EOS for other in masked)
    assert ends > 0


def test_newlines_end_blocks_without_being_told() -> None:
    pipe = pipeline(layers=2)
    found = run(pipe, window="adablock", adablock={"threshold": 0.0, "share": 1.0})
    cond = run(
        pipe, window="adablock",
        adablock={"threshold": 0.0, "share": 1.0, "delimiters": [NEWLINE]},
    )  # fmt: skip
    assert torch.equal(found, cond)


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [None, 4, 5])
@pytest.mark.parametrize("steps", [3, 7, 50])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_planned_cost_is_spent_cost(guidance: float, steps: int, block: int | None) -> None:
    pipe = pipeline(layers=1)
    options = as_call(
        num_inference_steps=steps, block_length=block, guidance_scale=guidance, eos_early_stop=False
    )
    sampler = TextDecode(num_candidates=3, max_rows=2)
    plan = sampler.plan(pipe, list(PROMPTS), **options)
    spent = sampler(pipe, list(PROMPTS), **options).cost
    assert plan.cost.difference(spent) == {}
    assert spent.nfe == 9 * plan.num_steps * (1 if guidance == 1 else 2)
    assert plan.peak_rows == (2 if guidance == 1 else 4)


def test_caches_compute_less_and_say_so() -> None:
    pipe = pipeline(layers=2)
    options = as_call(block_length=4, num_inference_steps=11, eos_early_stop=False)
    spent = {
        kv: TextDecode(num_candidates=2, kv=kv)(pipe, PROMPTS[0], **options).cost
        for kv in ("none", "prefix", "dual")
    }
    # 5 + 11 positions; blocks of 4, 4 and 3: one full pass each, the rest without what lies before
    # the block (prefix), or only the block (dual).
    assert spent["none"].tokens == 2 * 11 * 16
    prefix = [16] + [11] * 3 + [16] + [7] * 3 + [16] + [3] * 2
    dual = [16] + [4] * 3 + [16] + [4] * 3 + [16] + [3] * 2
    assert spent["prefix"].tokens == 2 * sum(prefix)
    assert spent["dual"].tokens == 2 * sum(dual)
    for cost in spent.values():
        assert cost.nfe == 22
        assert cost.tokens + cost.cache_hits == 2 * 11 * 16


def test_rows_that_have_ended_cost_nothing() -> None:
    pipe = pipeline(Oracle(vocabulary=4))
    output = TextDecode(num_candidates=8)(pipe, PROMPTS[1], **as_call(num_inference_steps=11))
    assert output.cost.nfe == pipe.transformer.rows < 8 * 11


# --- refusals -------------------------------------------------------------------------------------


def test_models_that_cannot_be_taken_apart_are_refused() -> None:
    pipe = pipeline(Oracle())
    for kv in ("prefix", "dual", "elastic"):
        with pytest.raises(UnsupportedPipelineError, match=f"kv={kv} runs single layers") as caught:
            run(pipe, kv=kv)
        assert "or kv=none" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UnsupportedPipelineError, match="takes no attention rule but full"):
        run(pipe, attention="block-causal", block_length=4)


def test_wrong_calls_are_one_line() -> None:
    pipe = pipeline(layers=1)
    with pytest.raises(ConfigError, match="`gen_lenght` is no argument of text decoding"):
        TextDecode()(pipe, "w1", gen_lenght=3)
    with pytest.raises(ConfigError, match="give a text or a list of texts, none empty"):
        TextDecode()(pipe, ["w1", " "])
    with pytest.raises(
        ConfigError,
        match="give each prompt its own",
    ):
        TextDecode()(pipe, ["w1", "w2"], seeds=[[1]], gen_length=4)
    with pytest.raises(ConfigError, match="`gen_length` is 64, but the model's context holds 64"):
        TextDecode()(pipe, "w1", gen_length=64)
    with pytest.raises(ConfigError, match="Both `config` and single options"):
        TextDecode(config=TextDecode().config, kv="none")
    with pytest.raises(UnsupportedPipelineError, match="does not fill in masked text"):
        TextDecode()(object(), "w1")


def test_a_model_without_a_mask_is_refused() -> None:
    pipe = pipeline(transformer(1, mask_token_id=None), words=tokenizer(mask_token=None))
    with pytest.raises(ConfigError, match="name no mask token"):
        run(pipe)
