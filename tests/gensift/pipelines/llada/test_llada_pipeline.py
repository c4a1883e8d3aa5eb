"""The pipeline decodes as the published loop does, which is written here once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.llada import (
    EOS,
    MASK,
    PROMPTS,
    TEMPLATE,
    VOCABULARY,
    Stub,
    called,
    ids_of,
    padded,
    pipeline,
    tokenizer,
    transformer,
)
from helpers.next_scale import randomised
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

import gensift
from gensift.errors import ConfigError
from gensift.pipelines.llada.pipeline import LLaDAPipeline, row_generators
from gensift.pipelines.llada.settings import DecodingSettings
from gensift.randomness import make_generators

PROMPT = ids_of(PROMPTS[0])


def drawn(logits: Tensor, uniform: float, temperature: float) -> int:
    """The token whose interval of the cumulative distribution holds the number."""
    shares = torch.softmax(logits.double() / temperature, -1)
    total = 0.0
    for token, share in enumerate(shares.tolist()):
        total += share
        if uniform < total:
            return token
    raise AssertionError


def published(
    model: Any,
    prompt: Sequence[int],
    *,
    gen_length: int,
    steps: int,
    block_length: int,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    threshold: float | None = None,
    seed: int | None = None,
) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    """LLaDA's `generate` for one prompt, position by position.

    The mask is never proposed. `block_length` has to divide as it has to there. Returns the
    response, and per step the block's logits' argmax and the positions committed.
    """
    assert gen_length % block_length == 0
    num_blocks = gen_length // block_length
    assert steps % num_blocks == 0
    steps //= num_blocks
    x = list(prompt) + [MASK] * gen_length
    is_prompt = [token != MASK for token in x]
    stream = None if seed is None else torch.Generator().manual_seed(seed)
    log = []
    for block in range(num_blocks):
        begin = len(prompt) + block * block_length
        inside = range(begin, begin + block_length)
        masks = sum(x[at] == MASK for at in inside)
        quota = [masks // steps + (1 if i < masks % steps else 0) for i in range(steps)]
        for i in range(steps if threshold is None else block_length):
            if all(x[at] != MASK for at in inside):
                break  # only with a threshold
            logits = model(torch.tensor([x])).logits[0]
            if cfg_scale > 0:
                masked_prompt = [
                    MASK if known else t for known, t in zip(is_prompt, x, strict=True)
                ]
                uncond = model(torch.tensor([masked_prompt])).logits[0]
                logits = uncond + (cfg_scale + 1) * (logits - uncond)
            logits[:, MASK] = -torch.inf
            numbers = (
                None
                if stream is None
                else torch.rand(gen_length, generator=stream, dtype=torch.float64)
            )
            proposal, confidence = {}, {}
            for at in inside:
                if x[at] != MASK:
                    continue
                if temperature == 0:
                    proposal[at] = int(logits[at].argmax())
                else:
                    assert numbers is not None
                    uniform = float(numbers[at - len(prompt)])
                    proposal[at] = drawn(logits[at], uniform, temperature)
                confidence[at] = float(torch.softmax(logits[at], -1)[proposal[at]])
            ranked = sorted(confidence, key=lambda at: (-confidence[at], at))
            if threshold is None:
                chosen = ranked[: quota[i]]
            else:
                chosen = [at for at in ranked if confidence[at] >= threshold or at == ranked[0]]
            for at in chosen:
                x[at] = proposal[at]
            log.append(([int(logits[at].argmax()) for at in inside], sorted(chosen)))
    return x[len(prompt) :], log


def plain(pipe: Any, **arguments: Any) -> list[int]:
    """The response to the first prompt, written to its full length."""
    arguments = {"eos_early_stop": False, **arguments}
    seeds = [7] if arguments.get("temperature") else None
    return called(pipe, PROMPTS[0], seeds, **arguments)[0].tolist()


# --- the published loop ---------------------------------------------------------------------------


@torch.no_grad()
def test_greedy_decoding_step_by_step() -> None:
    """Two layers, a prompt of five tokens, eight tokens in two blocks of four, three steps each.

    In every step: the model sees prompt and response; the block's masked positions are proposed
    their most probable tokens; as many as the quota says, the most probable ones, are committed;
    what is committed stays.
    """
    pipe = pipeline(layers=2)
    seen: list[dict[str, Tensor]] = []
    counted: list[tuple[int, int]] = []

    def watch(given: Any, step: int, step_in_block: int, tensors: dict[str, Tensor]) -> None:
        assert given is pipe
        counted.append((step, step_in_block))
        seen.append({name: value.clone() for name, value in tensors.items()})

    names = ("input_ids", "logits", "columns", "committed")
    options: dict[str, Any] = {"gen_length": 8, "block_length": 4, "num_inference_steps": 6}
    output = pipe(
        PROMPTS[0],
        eos_early_stop=False,
        output_type="seq",
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=names,
        **options,
    )
    wanted, log = published(pipe.transformer, PROMPT, gen_length=8, block_length=4, steps=6)

    # Four masks over three steps: two, then one, then one; two blocks of that.
    assert counted == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 2)]
    assert [int(step["committed"].sum()) for step in seen] == [2, 1, 1, 2, 1, 1]

    before = torch.tensor([PROMPT + [MASK] * 8])
    for step, tensors in enumerate(seen):
        start = 5 + (0 if step < 3 else 4)
        assert tensors["columns"].tolist() == [list(range(start, start + 4))]
        logits = pipe.transformer(before).logits[:, start : start + 4]
        logits[..., MASK] = -torch.inf
        assert torch.allclose(tensors["logits"], logits, atol=1e-5)
        committed = tensors["committed"][0]
        best, committed_tokens = log[step]
        assert tensors["logits"][0].argmax(-1).tolist() == best
        assert (committed.nonzero()[:, 0] + start).tolist() == committed_tokens
        after = before.clone()
        for at in committed_tokens:
            assert before[0, at] == MASK
            after[0, at] = best[at - start]
        assert tensors["input_ids"].tolist() == after.tolist()
        before = after

    assert output.texts is None
    assert output.sequences.tolist() == [wanted] == before[:, 5:].tolist()
    assert len(set(wanted)) > 3
    assert plain(pipe, **options) == wanted  # and again
    assert (
        pipe.tokenizer.decode(wanted, skip_special_tokens=True)
        == pipe(PROMPTS[0], eos_early_stop=False, **options).texts[0]
    )


SCHEDULES = [(12, 12, 12), (12, 5, 12), (12, 6, 4), (12, 8, 3), (12, 6, 2), (9, 3, 3), (1, 1, 1)]
"""Length of the response, steps, and length of a block."""


@pytest.mark.parametrize("schedule", SCHEDULES)
@torch.no_grad()
def test_greedy_decoding_is_the_published_loop(schedule: tuple[int, int, int]) -> None:
    length, steps, block = schedule
    pipe = pipeline(layers=2)
    wanted, _ = published(
        pipe.transformer, PROMPT, gen_length=length, steps=steps, block_length=block
    )
    options = {"gen_length": length, "num_inference_steps": steps, "block_length": block}
    assert plain(pipe, **options) == wanted


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("schedule", [(12, 12, 12), (12, 6, 4)])
@torch.no_grad()
def test_sampling_is_the_published_loop_with_the_same_numbers(
    schedule: tuple[int, int, int], temperature: float
) -> None:
    length, steps, block = schedule
    pipe = pipeline(layers=2)
    wanted, _ = published(
        pipe.transformer,
        PROMPT,
        gen_length=length,
        steps=steps,
        block_length=block,
        temperature=temperature,
        seed=7,
    )
    options = {"gen_length": length, "num_inference_steps": steps, "block_length": block}
    assert plain(pipe, temperature=temperature, **options) == wanted


@pytest.mark.parametrize("cfg_scale", [0.5, 2.0])
@torch.no_grad()
def test_guidance_is_the_published_one(cfg_scale: float) -> None:
    pipe = pipeline(layers=2)
    wanted, _ = published(
        pipe.transformer, PROMPT, gen_length=8, steps=8, block_length=4, cfg_scale=cfg_scale
    )
    options: dict[str, Any] = {"gen_length": 8, "num_inference_steps": 8, "block_length": 4}
    assert plain(pipe, guidance_scale=cfg_scale + 1, **options) == wanted
    assert plain(pipe, **options) != wanted


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.35, 1.0])
@torch.no_grad()
def test_a_threshold_commits_all_that_are_sure_and_at_least_one(threshold: float) -> None:
    pipe = pipeline(layers=2)
    wanted, log = published(
        pipe.transformer, PROMPT, gen_length=12, steps=3, block_length=4, threshold=threshold
    )
    steps: list[int] = []

    def watch(given: Any, step: int, within: int, tensors: dict[str, Tensor]) -> None:
        steps.append(int(tensors["committed"].sum()))

    found = pipe(
        PROMPTS[0],
        gen_length=12,
        block_length=4,
        threshold=threshold,
        eos_early_stop=False,
        output_type="seq",
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=("committed",),
    ).sequences
    assert found[0].tolist() == wanted
    assert steps == [len(committed_tokens) for _, committed_tokens in log]
    assert {0.0: len(steps) == 3, 1.0: len(steps) == 12}.get(threshold, 3 < len(steps) < 12)


def test_blocks_need_not_divide() -> None:
    """Eleven tokens in blocks of 4, 4 and 3; nine steps are 4, 4 and 3 of them, rounded up."""
    pipe = pipeline(layers=2)
    columns: list[list[int]] = []

    def watch(given: Any, step: int, within: int, tensors: dict[str, Tensor]) -> None:
        columns.append(tensors["columns"][0].tolist())

    found = pipe(
        PROMPTS[1],
        gen_length=11,
        block_length=4,
        num_inference_steps=9,
        eos_early_stop=False,
        output_type="seq",
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=("columns",),
    ).sequences
    assert MASK not in found
    assert columns == [[2, 3, 4, 5]] * 4 + [[6, 7, 8, 9]] * 4 + [[10, 11, 12]] * 3
    assert DecodingSettings(gen_length=11, block_length=4).blocks() == [(0, 4), (4, 8), (8, 11)]
    assert DecodingSettings(gen_length=11).blocks() == [(0, 11)]
    assert DecodingSettings(gen_length=3, block_length=8).blocks() == [(0, 3)]


def test_more_steps_than_tokens_are_one_token_each() -> None:
    pipe = pipeline(layers=2)
    assert plain(pipe, gen_length=6, num_inference_steps=100) == plain(
        pipe, gen_length=6, num_inference_steps=6
    )


# --- the end of a text ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"block_length": 3}, {"threshold": 0.2}])
@torch.no_grad()
def test_what_follows_the_end_is_filled_and_not_computed(options: dict[str, Any]) -> None:
    """Up to its end each text is what it is without stopping early; after it, it is its end."""
    pipe = pipeline(layers=2)
    texts, ends, calls = 12, 0, {True: 0, False: 0}
    found = {}
    for stops in (True, False):

        def count(given: Any, step: int, *rest: Any, stops: bool = stops) -> None:
            calls[stops] += 1

        found[stops] = pipe(
            list(PROMPTS),
            generator=make_generators(range(3 * texts)),
            num_texts_per_prompt=texts,
            gen_length=12,
            num_inference_steps=12,
            temperature=1.5,
            eos_early_stop=stops,
            output_type="seq",
            callback_on_step_end=count,
            **options,
        ).sequences
    for stopped, full in zip(found[True].tolist(), found[False].tolist(), strict=True):
        end = full.index(EOS) if EOS in full else 12
        assert stopped == full[:end] + [EOS] * (12 - end)
        ends += end < 12
    assert 3 < ends < 36
    assert calls[True] <= calls[False]


class Told(Stub):
    """Says the same text whatever it is asked, surest at the front."""

    def __init__(self, text: Sequence[int], prompt_length: int) -> None:
        super().__init__()
        self._text, self._start = text, prompt_length

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = torch.zeros(*input_ids.shape, len(VOCABULARY))
        for at, token in enumerate(self._text):
            logits[:, self._start + at, token] = 20.0 - at
        return logits


def test_a_row_that_has_ended_takes_no_more_steps() -> None:
    """The end stands at the fourth place and is committed in the fourth of ten steps."""
    pipe = pipeline(Told([11, 12, 13, EOS, 14, 15, 16, 17, 18, 19], 2))
    for stops, count in ((True, 4), (False, 10)):
        steps: list[int] = []
        found = pipe(
            PROMPTS[1],
            gen_length=10,
            block_length=5,
            num_inference_steps=10,
            eos_early_stop=stops,
            callback_on_step_end=lambda given, step, *rest, to=steps: to.append(step),
        )
        assert steps == list(range(count))
        tail = [EOS] * 6 if stops else [14, 15, 16, 17, 18, 19]
        assert found.sequences.tolist() == [[11, 12, 13, EOS, *tail]]
    assert found.texts == ["w6 w7 w8 w9 w10 w11 w12 w13 w14"]


# --- callbacks ------------------------------------------------------------------------------------


def test_a_callback_may_change_the_tokens() -> None:
    pipe = pipeline(layers=2)

    def write(given: Any, step: int, within: int, tensors: dict[str, Tensor]) -> Any:
        if step != 1:
            return None
        tokens = tensors["input_ids"].clone()
        tokens[:, 5 + 3] = 20
        tokens[:, 5] = MASK  # and take back what may have been committed
        return {"input_ids": tokens}

    options: dict[str, Any] = {"gen_length": 6, "num_inference_steps": 6, "eos_early_stop": False}
    changed = pipe(PROMPTS[0], callback_on_step_end=write, output_type="seq", **options)
    assert changed.sequences[0, 3] == 20
    assert MASK not in changed.sequences
    assert changed.sequences[0].tolist() != plain(pipe, **options)


def test_unknown_tensors_are_refused() -> None:
    with pytest.raises(ConfigError, match="names hidden; allowed: input_ids, logits, columns"):
        pipeline()("w1", callback_on_step_end_tensor_inputs=("hidden", "logits"))


# --- rows -----------------------------------------------------------------------------------------


OPTIONS: dict[str, Any] = {
    "gen_length": 9,
    "block_length": 4,
    "num_inference_steps": 7,
    "temperature": 1.0,
}


@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.7}, {"threshold": 0.4}])
@pytest.mark.parametrize("shift", [False, True])
def test_a_row_alone_is_the_row_in_a_batch(shift: bool, changes: dict[str, Any]) -> None:
    pipe = pipeline(layers=3, shift_logits=shift)
    options = OPTIONS | changes
    together = called(pipe, list(PROMPTS), [4, 5, 6], **options)
    for row, prompt in enumerate(PROMPTS):
        assert torch.equal(called(pipe, prompt, [4 + row], **options)[0], together[row])
        tokens, is_real = padded([ids_of(prompt)], width=10)
        given = pipe(
            input_ids=tokens,
            attention_mask=is_real.long(),
            generator=make_generators([4 + row]),
            output_type="seq",
            **options,
        ).sequences
        assert torch.equal(given[0], together[row])


def test_generators_belong_to_rows() -> None:
    pipe = pipeline(layers=2)
    four = called(pipe, PROMPTS[0], [1, 2, 3, 4], num_texts_per_prompt=4, **OPTIONS)
    assert len(four.unique(dim=0)) == 4
    swapped = called(pipe, PROMPTS[0], [4, 3, 2, 1], num_texts_per_prompt=4, **OPTIONS)
    assert torch.equal(swapped, four.flip(0))
    two = [
        called(pipe, PROMPTS[0], num_texts_per_prompt=3, **OPTIONS | {"temperature": 0.0})
        for _ in range(2)
    ]
    assert torch.equal(two[0], two[1]) and len(two[0].unique(dim=0)) == 1


def test_one_generator_seeds_all_rows() -> None:
    pipe = pipeline(layers=2)
    first, again = (
        pipe(
            list(PROMPTS),
            generator=torch.Generator().manual_seed(3),
            num_texts_per_prompt=2,
            output_type="seq",
            **OPTIONS,
        ).sequences
        for _ in range(2)
    )
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    one = torch.Generator().manual_seed(3)
    assert row_generators(one, 1) == [one]
    with pytest.raises(ConfigError, match="2 generators were given for 3 rows"):
        called(pipe, list(PROMPTS), [1, 2], gen_length=4)


def test_chats_and_messages(tmp_path: Any) -> None:
    pipe = pipeline(layers=2, words=tokenizer(TEMPLATE))
    by_prompt = called(pipe, "w1 w2", gen_length=5, num_inference_steps=5)
    chat = [{"role": "user", "content": "w1 w2"}]
    by_chat = pipe(messages=chat, gen_length=5, num_inference_steps=5, output_type="seq")
    assert torch.equal(by_prompt, by_chat.sequences)
    bare = called(pipe, "w1 w2", gen_length=5, num_inference_steps=5, use_chat_template=False)
    assert not torch.equal(by_prompt, bare)


def test_outputs_are_of_the_kind_asked_for() -> None:
    pipe = pipeline(layers=1)
    output = pipe(list(PROMPTS), gen_length=4, num_inference_steps=4)
    assert output.texts == pipe.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
    sequences, texts = pipe(list(PROMPTS), gen_length=4, num_inference_steps=4, return_dict=False)
    assert torch.equal(sequences, output.sequences) and texts == output.texts


def test_saved_and_loaded_it_decodes_the_same(tmp_path: Any) -> None:
    pipe = pipeline(layers=2, shift_logits=True)
    wanted = called(pipe, list(PROMPTS), [1, 2, 3], **OPTIONS)
    pipe.save_pretrained(tmp_path / "saved")
    again: Any = gensift.load_pipeline(tmp_path / "saved")
    assert type(again) is LLaDAPipeline and again.config.shift_logits is True
    again.set_progress_bar_config(disable=True)
    assert torch.equal(called(again, list(PROMPTS), [1, 2, 3], **OPTIONS), wanted)
    assert (again.mask_token_id, again.stop_ids) == (MASK, (EOS,))


# --- models of others -----------------------------------------------------------------------------


def bert() -> Any:
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=32,
    )
    return randomised(BertForMaskedLM(config), std=0.5)


def llama() -> Any:
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        max_position_embeddings=32,
        eos_token_id=EOS,
        pad_token_id=0,
        bos_token_id=None,
    )
    return randomised(LlamaForCausalLM(config), std=0.5)


@pytest.mark.parametrize("build", [bert, llama])
@pytest.mark.parametrize("shift", [False, True])
@torch.no_grad()
def test_any_model_with_logits_will_do(build: Any, shift: bool) -> None:
    """With shifted logits a position is told by the one before it, and the first by itself."""
    model = build()

    class Shifted:
        def __call__(self, tokens: Tensor) -> Any:
            output = model(tokens)
            if shift:
                output.logits = torch.cat([output.logits[:, :1], output.logits[:, :-1]], dim=1)
            return output

    wanted, _ = published(Shifted(), PROMPT, gen_length=8, steps=4, block_length=4)
    pipe = pipeline(model, shift_logits=shift)
    assert pipe.context_length == 32
    found = plain(pipe, gen_length=8, num_inference_steps=4, block_length=4)
    assert found == wanted
    together = called(
        pipe, list(PROMPTS), gen_length=8, num_inference_steps=4, eos_early_stop=False
    )
    for row, prompt in enumerate(PROMPTS):
        alone = called(pipe, prompt, gen_length=8, num_inference_steps=4, eos_early_stop=False)
        assert torch.equal(alone[0], together[row])


@torch.no_grad()
def test_shifted_logits_are_those_before() -> None:
    plain_pipe, shifted = (pipeline(layers=2, shift_logits=shift) for shift in (False, True))
    tokens = torch.tensor([PROMPT + [MASK] * 4])
    real = torch.ones_like(tokens, dtype=torch.bool)
    columns = torch.tensor([[0, 1, 5, 8]])
    found = shifted.predict(tokens, real, columns, prompt_length=5)
    before = torch.tensor([[0, 0, 4, 7]])
    assert torch.equal(found, plain_pipe.predict(tokens, real, before, prompt_length=5))


# --- refusals -------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too long": ({"gen_length": 60}, r"The prompt has 5 tokens and `gen_length` is 60, but the mo"),
    "nothing to write": ({"gen_length": 0}, "`gen_length` is 0; allowed: at least 1"),
    "no steps": ({"num_inference_steps": 0}, "`num_inference_steps` is 0"),
    "no block": ({"block_length": 0}, "`block_length` is 0"),
    "cold": ({"temperature": -1.0}, "`temperature` is -1"),
    "infinite": ({"temperature": float("inf")}, "`temperature` is inf; give a finite number"),
    "no guidance": ({"guidance_scale": float("nan")}, "`guidance_scale` is nan"),
    "no share": ({"threshold": 1.5}, "`threshold` is 1.5; allowed: .*1"),
    "no output": ({"output_type": "pil"}, "`output_type` is 'pil'; allowed: text, seq"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_one_line(name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as caught:
        pipeline(layers=1)(PROMPTS[0], **arguments)
    assert "\n" not in str(caught.value)


def test_the_context_may_be_filled_to_the_last_token() -> None:
    pipe = pipeline(layers=1)
    found = called(pipe, PROMPTS[0], gen_length=59, num_inference_steps=1, eos_early_stop=False)
    assert found.shape == (1, 59) and MASK not in found


def test_a_model_that_names_no_mask_takes_the_tokenizers() -> None:
    pipe = pipeline(transformer(1, mask_token_id=None))
    assert pipe.mask_token_id == MASK
    nameless = pipeline(transformer(1, mask_token_id=None), words=tokenizer(mask_token=None))
    with pytest.raises(ConfigError, match="name no mask token; set `mask_token_id`"):
        nameless("w1", gen_length=4)


def test_tokens_of_the_caller_are_checked() -> None:
    pipe = pipeline(layers=1)
    with pytest.raises(ConfigError, match=r"`input_ids` is torch\.float32"):
        pipe(input_ids=torch.ones(1, 3))
    with pytest.raises(ConfigError, match="pad on the left"):
        pipe(input_ids=torch.ones(1, 3).long(), attention_mask=torch.tensor([[1, 1, 0]]))
    with pytest.raises(ConfigError, match="A prompt is empty"):
        pipe("")
