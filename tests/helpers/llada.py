"""Tiny LLaDA pipelines with random weights, in which everything matters.

pipe = pipeline(layers=2)
ids = decoded(pipe, TextDecode(num_candidates=2), PROMPTS, gen_length=8)
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from helpers.next_scale import randomised
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.llada.transformer import LLaDATransformer
from gensift.randomness import make_generators

PAD, MASK, EOS, UNKNOWN, NEWLINE = range(5)
SPECIAL = ("[PAD]", "[MASK]", "[EOS]", "[UNK]")
WORDS = tuple(f"w{number}" for number in range(35))
VOCABULARY = (*SPECIAL, "\n", *WORDS)
PROMPTS = ("w3 w1 w4 w1 w5", "w9 w2", "w6 w5 w3 w5 w8 w9 w7")
"""Of five, two and seven tokens."""
TEMPLATE = (
    "{% for message in messages %}{{ 'w30 ' + message['content'] + ' [EOS] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'w31' }}{% endif %}"
)


def tokenizer(chat_template: str | None = None, **options: Any) -> PreTrainedTokenizerFast:
    """One token per word; the newline is one, too."""
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    model = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "mask_token": "[MASK]", "eos_token": "[EOS]"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=model, **{**special, "unk_token": "[UNK]", **options}
    )
    made.chat_template = chat_template
    return made


def transformer(layers: int = 2, seed: int = 0, std: float = 0.5, **options: Any) -> Any:
    """Four heads of six channels, two of keys and values."""
    chosen: dict[str, Any] = {
        "d_model": 24,
        "n_heads": 4,
        "n_kv_heads": 2,
        "n_layers": layers,
        "mlp_hidden_size": 40,
        "vocab_size": len(VOCABULARY),
        "max_sequence_length": 64,
        "rope_theta": 100.0,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        **options,
    }
    return randomised(LLaDATransformer(**chosen), seed, std)


def pipeline(
    model: Any = None, *, layers: int = 2, shift_logits: bool = False, words: Any = None
) -> Any:
    """A pipeline that remembers as `seen` the tokens that it turned into text last."""
    pipe: Any = LLaDAPipeline(model or transformer(layers), words or tokenizer(), shift_logits)
    pipe.set_progress_bar_config(disable=True)

    def decode(sequences: Tensor) -> list[str]:
        pipe.seen = sequences.clone()
        return LLaDAPipeline.decode(pipe, sequences)

    pipe.decode = decode
    return pipe


def decoded(pipe: Any, sampler: Any, prompts: Any, **arguments: Any) -> Tensor:
    """Tokens of all texts of a sampler, int64 `(rows, gen_length)`."""
    sampler(pipe, prompts, **arguments)
    found: Tensor = pipe.seen
    return found


def called(pipe: Any, prompts: Any, seeds: Sequence[int] | None = None, **arguments: Any) -> Tensor:
    """Tokens of all texts of a plain call."""
    generator = None if seeds is None else make_generators(seeds)
    found: Tensor = pipe(prompts, generator=generator, output_type="seq", **arguments).sequences
    return found


def ids_of(text: str) -> list[int]:
    return [VOCABULARY.index(word) for word in text.split()]


def padded(rows: Sequence[Sequence[int]], width: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of tokens with padding on the left, and what is real."""
    width = width or max(map(len, rows))
    tokens = torch.tensor([[PAD] * (width - len(row)) + list(row) for row in rows])
    is_real = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return tokens, is_real


class Stub(nn.Module):
    """A model without parameters, with what a pipeline asks of one."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=MASK, eos_token_id=EOS)


class Oracle(Stub):
    """Logits that are random but fixed: every token of a row matters to all its positions.

    Padding matters to none.
    """

    def __init__(self, vocabulary: int = len(VOCABULARY), seed: int = 0, scale: float = 3.0):
        super().__init__()
        self._vocabulary, self._seed, self._scale = vocabulary, seed, scale
        self.rows = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        is_real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self.rows += len(input_ids)
        rows = [
            self._row(tokens[real.bool()].tolist(), int((real == 0).sum()))
            for tokens, real in zip(input_ids, is_real, strict=True)
        ]
        return torch.stack(rows)

    def _row(self, tokens: Sequence[int], padding: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self._seed, *tokens)) % 2**48)
        logits = self._scale * torch.randn(len(tokens), self._vocabulary, generator=generator)
        return torch.cat([torch.zeros(padding, self._vocabulary), logits])
