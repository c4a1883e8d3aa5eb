"""Tokenizers of the zoo's text encoders: whole words of the Shapes world, letters for the rest."""

from __future__ import annotations

import json
import string

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer, T5Tokenizer

from gensift.zoo.shapes.grammar import all_meanings

LETTERS = string.ascii_lowercase + string.digits + ".,'-"
CLIP_LENGTH = 16
T5_LENGTH = 12
"""Longest prompt in tokens, end mark included: the grammar needs at most 10."""


def words() -> list[str]:
    """All words of the grammar, sorted."""
    return sorted({word for meaning in all_meanings() for word in str(meaning).split()})


def build_t5_tokenizer() -> T5Tokenizer:
    """A unigram model that prefers whole words and falls back to letters."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in words() if len(word) > 1 or word == "a"]
    vocabulary += [(letter, -10.0) for letter in LETTERS]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=T5_LENGTH)


def build_clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair model trained until every word of the grammar is one token."""
    # The trainer numbers letters differently on every run unless they are given, and breaks ties by
    # their numbers; ids must fit the trained weights.
    letters = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    trainer = BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        special_tokens=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    model = Tokenizer(BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = Whitespace()
    model.train_from_iterator([*words(), *LETTERS], trainer)
    learnt = json.loads(model.to_str())["model"]
    # The end mark must have the largest id: CLIP pools where the largest id stands.
    marks = ("<|startoftext|>", "<|endoftext|>")
    size = len(learnt["vocab"])
    vocabulary = learnt["vocab"] | {mark: size + index for index, mark in enumerate(marks)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)
