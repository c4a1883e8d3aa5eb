"""Tokenizers of the zoo: the same on every run, one token per word, as the weights expect."""

import hashlib
import json

import pytest
from transformers import AutoTokenizer

from apps.training.zoo.vocabulary import (
    CLIP_LENGTH,
    T5_LENGTH,
    build_clip_tokenizer,
    build_t5_tokenizer,
    words,
)
from gensift.zoo.catalog import model_folder
from gensift.zoo.shapes.grammar import all_meanings


def test_every_word_is_one_token() -> None:
    for tokenizer, marks in ((build_clip_tokenizer(), 2), (build_t5_tokenizer(), 1)):
        assert all(len(tokenizer(word).input_ids) == 1 + marks for word in words())


def test_every_prompt_fits() -> None:
    prompts = [str(meaning) for meaning in all_meanings()]
    assert max(map(len, build_clip_tokenizer()(prompts).input_ids)) <= CLIP_LENGTH
    assert max(map(len, build_t5_tokenizer()(prompts).input_ids)) <= T5_LENGTH


def test_ids_never_change_because_weights_depend_on_them() -> None:
    # The trainer behind the byte-pair model once numbered its letters differently on every run.
    vocabulary = sorted(build_clip_tokenizer().get_vocab().items())
    digest = hashlib.md5(json.dumps(vocabulary).encode()).hexdigest()
    assert digest == "fb962e99ece8fd2a7b633c6b62712449"


@pytest.mark.parametrize(
    ("model", "folder", "build"),
    [
        ("shapes-flux", "tokenizer", build_clip_tokenizer),
        ("shapes-flux", "tokenizer_2", build_t5_tokenizer),
        ("shapes-clip", ".", build_clip_tokenizer),
    ],
)
def test_the_published_tokenizers_are_those_of_the_recipe(model, folder, build) -> None:
    published = AutoTokenizer.from_pretrained(model_folder(model) / folder)
    prompts = [str(meaning) for meaning in all_meanings()[::37]] + ["", "a blurry photo"]
    assert published(prompts).input_ids == build()(prompts).input_ids
