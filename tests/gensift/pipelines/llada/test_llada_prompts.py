"""Prompts end in one column, and chats are written by the tokenizer's template."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.llada import EOS, PAD, PROMPTS, TEMPLATE, ids_of, pipeline, tokenizer

from gensift.errors import ConfigError
from gensift.pipelines.llada.prompts import (
    encode_chats,
    encode_prompts,
    given_rows,
    pad_left,
)

LENGTHS = [5, 2, 7]


def test_prompts_are_padded_on_the_left() -> None:
    rows = encode_prompts(tokenizer(), PROMPTS)
    assert rows.tokens.shape == rows.is_real.shape == (3, 7)
    for row, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        assert rows.tokens[row].tolist() == [PAD] * (7 - length) + ids_of(prompt)
        assert rows.is_real[row].tolist() == [False] * (7 - length) + [True] * length


@pytest.mark.parametrize(
    ("changes", "fill"),
    [({}, PAD), ({"pad_token": None}, EOS), ({"pad_token": None, "eos_token": None}, 0)],
)
def test_padding_needs_no_token_of_its_own(changes: dict[str, Any], fill: int) -> None:
    words = tokenizer(**{name: None for name in changes})
    assert pad_left([[5], [6, 7]], words).tokens.tolist() == [[fill, 5], [6, 7]]


def test_a_prompt_is_a_turn_where_there_is_a_template() -> None:
    words = tokenizer(TEMPLATE)
    rows = encode_prompts(words, PROMPTS[:2])
    assert rows.tokens[0].tolist() == ids_of(f"w30 {PROMPTS[0]} [EOS] w31")
    assert rows.tokens[1, 3:].tolist() == ids_of(f"w30 {PROMPTS[1]} [EOS] w31")
    assert rows.is_real.sum(1).tolist() == [8, 5]
    open_ended = encode_prompts(words, PROMPTS[:1], add_generation_prompt=False)
    assert open_ended.tokens[0].tolist() == ids_of(f"w30 {PROMPTS[0]} [EOS]")
    plain = encode_prompts(words, PROMPTS[:1], use_chat_template=False)
    assert plain.tokens[0].tolist() == ids_of(PROMPTS[0])


def test_chats_are_written_by_the_template() -> None:
    chat = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    rows = encode_chats(tokenizer(TEMPLATE), [chat, chat[:1]])
    assert rows.tokens[0].tolist() == ids_of("w30 w1 [EOS] w30 w2 [EOS] w31")
    assert rows.tokens[1].tolist() == [PAD] * 3 + ids_of("w30 w1 [EOS] w31")


def test_rows_are_repeated_next_to_each_other() -> None:
    rows = encode_prompts(tokenizer(), PROMPTS)
    assert rows.repeat(2).tokens.tolist() == [
        rows.tokens[row].tolist() for row in (0, 0, 1, 1, 2, 2)
    ]
    nonuniform = rows.repeat([1, 3, 0])
    assert nonuniform.is_real.tolist() == [rows.is_real[row].tolist() for row in (0, 1, 1, 1)]
    assert torch.equal(rows.select(slice(1, 3)).tokens, rows.tokens[1:])


def test_tokens_of_the_caller() -> None:
    tokens = torch.tensor([[PAD, 5, 6], [7, 8, 9]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    rows = given_rows(tokens, mask)
    assert rows.is_real.dtype == torch.bool and rows.is_real.tolist() == mask.bool().tolist()
    assert given_rows(tokens[0], None).tokens.shape == (1, 3)
    assert bool(given_rows(tokens, None).is_real.all())
    assert given_rows(tokens[0], mask[0]).is_real.shape == (1, 3)


WRONG_TOKENS = {
    "int32": (torch.ones(1, 3, dtype=torch.int32), None, r"is torch.int32 \(1, 3\); give int64"),
    "floats": (torch.ones(1, 3), None, "is torch.float32"),
    "nothing": (torch.ones(1, 0, dtype=torch.long), None, r"\(1, 0\)"),
    "three dimensions": (torch.ones(1, 1, 3, dtype=torch.long), None, r"\(1, 1, 3\)"),
    "another shape": (torch.ones(1, 3).long(), torch.ones(1, 2), "must be alike"),
    "right padding": (torch.ones(1, 3).long(), torch.tensor([[1, 1, 0]]), "pad on the left"),
    "a hole": (torch.ones(1, 3).long(), torch.tensor([[1, 0, 1]]), "pad on the left"),
    "nobody": (torch.ones(2, 2).long(), torch.tensor([[1, 1], [0, 0]]), "pad on the left"),
}


@pytest.mark.parametrize("name", WRONG_TOKENS)
def test_wrong_tokens_are_named(name: str) -> None:
    tokens, mask, message = WRONG_TOKENS[name]
    with pytest.raises(ConfigError, match=message) as caught:
        given_rows(tokens, mask)
    assert "\n" not in str(caught.value)


WRONG_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "Give one of `prompt`, `messages` and `input_ids`"),
    "two": ({"prompt": "w1", "input_ids": torch.ones(1, 1).long()}, "Give one of"),
    "empty": ({"prompt": ""}, "A prompt is empty"),
    "blank": ({"prompt": ["w1", "  \n"]}, "A prompt is empty"),
    "no prompts": ({"prompt": []}, "A prompt is empty"),
    "no text": ({"prompt": [3]}, "A prompt is empty; give a text"),
    "no messages": ({"messages": []}, "`messages` is empty"),
    "no template": ({"messages": [{"role": "user", "content": "w1"}]}, "chat template"),
}


@pytest.mark.parametrize("name", WRONG_PROMPTS)
def test_wrong_prompts_are_named(name: str) -> None:
    given, message = WRONG_PROMPTS[name]
    with pytest.raises(ConfigError, match=message):
        pipeline().encode(**given)


def test_one_chat_or_several() -> None:
    pipe = pipeline(words=tokenizer(TEMPLATE))
    chat = [{"role": "user", "content": "w1 w2"}]
    assert pipe.encode(messages=chat).tokens.tolist() == pipe.encode("w1 w2").tokens.tolist()
    assert pipe.encode(messages=[chat, chat]).tokens.shape == (2, 5)
