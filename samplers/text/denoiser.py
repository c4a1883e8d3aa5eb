"""The model as decoding sees it: guidance, shifted logits, and tokens that are ruled out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from gensift.pipelines.llada.pipeline import forbid
from samplers.text.kv.protocol import KVPolicy, Request
from samplers.text.state import Columns, DecodingState


class Denoiser:
    """Logits of a step by a KV policy.

    Args:
        policy: computes logits.
        guidance_scale: 1 leaves the model alone; otherwise each row runs twice, the second time
            with its prompt masked.
        lead: 1 for models whose logits are those of the next token.
        forbidden: tokens that are never proposed; the mask is one of them.
    """

    def __init__(
        self, policy: KVPolicy, guidance_scale: float, lead: int, forbidden: Sequence[int]
    ) -> None:
        self._policy = policy
        self._scale = guidance_scale
        self._lead = lead
        self._forbidden = list(forbidden)

    @property
    def branches(self) -> int:
        """Rows of the model per row of text."""
        return 1 if self._scale == 1 else 2

    def logits(self, state: DecodingState, is_opened: Tensor, columns: Columns) -> Tensor:
        """Logits `(rows, width, vocabulary)` at `columns`, counted in the sequence."""
        read = Columns((columns.index - self._lead).clamp(min=0), columns.is_open)
        if self._scale == 1:
            logits = self._policy.logits(Request(state, is_opened, read))
        else:
            both = Columns(read.index.repeat(2, 1), read.is_open.repeat(2, 1))
            request = Request(_with_masked_prompts(state), is_opened.repeat(2), both)
            cond, uncond = self._policy.logits(request).chunk(2)
            logits = uncond + self._scale * (cond - uncond)
        return forbid(logits, self._forbidden)

    def select(self, rows: Tensor, of: int) -> None:
        """Keep some of the `of` rows, int64 `(kept,)`."""
        self._policy.select(torch.cat([rows + branch * of for branch in range(self.branches)]))


def _with_masked_prompts(state: DecodingState) -> DecodingState:
    """The rows, and once more with their prompts masked."""
    twice = state.select(torch.arange(len(state), device=state.tokens.device).repeat(2))
    tokens = twice.tokens.clone()
    tokens[len(state) :, : state.prompt_length] = state.mask_token_id
    return dataclasses.replace(twice, tokens=tokens)
