"""Tokens of prompts and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gensift.zoo.countdown.checker import solutions
from gensift.zoo.countdown.split import validation_problems
from gensift.zoo.countdown.tokenizer import VOCABULARY, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def test_ids_are_places_in_the_vocabulary(tokenizer: Any) -> None:
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(VOCABULARY)}
    special = (tokenizer.pad_token, tokenizer.mask_token, tokenizer.eos_token, tokenizer.unk_token)
    assert special == ("[PAD]", "[MASK]", "[EOS]", "[UNK]")
    assert tokenizer.padding_side == "left"


def test_prompts_and_answers_have_seven_tokens_and_come_back(tokenizer: Any) -> None:
    for problem in validation_problems()[::10]:
        for text in (problem.text, *solutions(problem)):
            ids = tokenizer(text).input_ids
            assert len(ids) == 7 and tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("(3+7)*2", "( 3 + 7 ) * 2"),
        (" Use  3 7\n15 TO make 36 ", "use 3 7 15 to make 36"),
        ("3-(7*15)", "3 - ( 7 * 15 )"),
        ("3 / 200", "3 [UNK] [UNK]"),
    ],
)
def test_blanks_and_case_do_not_matter(tokenizer: Any, text: str, read: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == read


def test_special_tokens_are_left_out_of_texts(tokenizer: Any) -> None:
    ids = tokenizer("[MASK] 3 + 7 [EOS] [PAD]").input_ids
    assert ids[0] == tokenizer.mask_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "3 + 7"


def test_it_loads_as_it_was_saved(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(again, PreTrainedTokenizerFast)
    text = "Use (3+7)*2 [MASK] [EOS]"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.padding_side == "left" and again.mask_token_id == tokenizer.mask_token_id
