"""Prompts as rows of tokens that end in the same column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gensift.errors import ConfigError

Messages = Sequence[Mapping[str, str]]


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of a tokenizer of transformers."""

    pad_token_id: int | None
    eos_token_id: int | None

    def __call__(self, text: str, **options: bool) -> Mapping[str, list[int]]:
        """Token ids of a text, under `input_ids`."""
        ...

    def apply_chat_template(self, conversation: list[Mapping[str, str]], **options: bool) -> str:
        """A chat as one text."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Token ids by token."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of some tokens."""
        ...

    def batch_decode(self, sequences: Tensor, *, skip_special_tokens: bool = False) -> list[str]:
        """Texts of int64 `(rows, positions)`."""
        ...


@dataclass(frozen=True)
class PromptRows:
    """Prompts, padded on the left, so that all responses begin in one column.

    Attributes:
        tokens: int64 `(rows, positions)`.
        is_real: bool `(rows, positions)`, false at padding.
    """

    tokens: Tensor
    is_real: Tensor

    def repeat(self, times: int | Sequence[int]) -> PromptRows:
        """Each row so many times, copies next to each other."""
        counts = torch.as_tensor(times, device=self.tokens.device).expand(len(self.tokens))
        return PromptRows(
            self.tokens.repeat_interleave(counts, 0), self.is_real.repeat_interleave(counts, 0)
        )

    def select(self, rows: slice) -> PromptRows:
        """Some rows only."""
        return PromptRows(self.tokens[rows], self.is_real[rows])

    def to(self, device: torch.device | str) -> PromptRows:
        """The same on another device."""
        return PromptRows(self.tokens.to(device), self.is_real.to(device))


def encode_prompts(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    use_chat_template: bool = True,
    add_generation_prompt: bool = True,
) -> PromptRows:
    """Tokens of prompts, each as the user's turn of a chat where the tokenizer has a template."""
    if use_chat_template and getattr(tokenizer, "chat_template", None):
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return encode_chats(tokenizer, chats, add_generation_prompt=add_generation_prompt)
    return pad_left([tokenizer(prompt)["input_ids"] for prompt in prompts], tokenizer)


def encode_chats(
    tokenizer: Tokenizer, chats: Sequence[Messages], *, add_generation_prompt: bool = True
) -> PromptRows:
    """Tokens of chats, by the tokenizer's template."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("`messages` need a tokenizer with a chat template; give `prompt`.")
    texts = [
        tokenizer.apply_chat_template(
            list(chat), add_generation_prompt=add_generation_prompt, tokenize=False
        )
        for chat in chats
    ]
    # The template writes the special tokens itself.
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return pad_left(encoded, tokenizer)


def pad_left(sequences: Sequence[Sequence[int]], tokenizer: Tokenizer) -> PromptRows:
    """Rows of one length; padding is masked, so its token does not matter."""
    fill = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    longest = max(len(sequence) for sequence in sequences)
    tokens = torch.full((len(sequences), longest), fill)
    is_real = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        start = longest - len(sequence)
        tokens[row, start:] = torch.tensor(sequence, dtype=torch.long)
        is_real[row, start:] = True
    return PromptRows(tokens, is_real)


def given_rows(input_ids: Tensor, attention_mask: Tensor | None) -> PromptRows:
    """Rows of tokens `(rows, length)` that the caller has made, with a mask of the same shape.

    Raises:
        ConfigError: they are no int64 matrix, or the mask does not fit or pads on the right.
    """
    if input_ids.dtype != torch.long or input_ids.ndim not in (1, 2) or not input_ids.numel():
        raise ConfigError(
            f"`input_ids` is {input_ids.dtype} {tuple(input_ids.shape)}; give int64 tokens "
            "(rows, positions)."
        )
    tokens = input_ids[None] if input_ids.ndim == 1 else input_ids
    if attention_mask is None:
        return PromptRows(tokens, torch.ones_like(tokens, dtype=torch.bool))
    is_real = attention_mask.reshape(-1, attention_mask.shape[-1]).bool()
    if is_real.shape != tokens.shape:
        raise ConfigError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)} and `input_ids` "
            f"{tuple(input_ids.shape)}; they must be alike."
        )
    if bool((is_real[:, :-1] & ~is_real[:, 1:]).any()) or not bool(is_real[:, -1].all()):
        raise ConfigError("`attention_mask` hides tokens after real ones; pad on the left.")
    return PromptRows(tokens, is_real)
