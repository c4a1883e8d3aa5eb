"""Rows of text that are being decoded, each at its own pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from gensift.pipelines.llada.prompts import PromptRows
from gensift.pipelines.llada.reference import blank_sequences


@dataclass
class DecodingState:
    """The rows that are not finished. Positions of a window count from the start of the response.

    Attributes:
        tokens: int64 `(rows, positions)`, prompt and response.
        is_real: bool `(rows, positions)`, false at padding.
        row_ids: int64 `(rows,)`, which row of the whole batch each one is.
        first, end: int64 `(rows,)`, the window: where it begins and where it is over.
        previous: int64 `(rows,)`, where the window before it began.
        masks: int64 `(rows,)`, tokens that were to be decided when the window was opened.
        step: int64 `(rows,)`, forward passes since then.
        changed: bool `(rows, positions)`, committed since the last forward pass.
        prompt_length: columns before the response.
        mask_token_id: what positions hold that are not committed.
    """

    tokens: Tensor
    is_real: Tensor
    row_ids: Tensor
    first: Tensor
    end: Tensor
    previous: Tensor
    masks: Tensor
    step: Tensor
    changed: Tensor
    prompt_length: int
    mask_token_id: int

    @classmethod
    def begin(cls, prompts: PromptRows, gen_length: int, mask_token_id: int) -> DecodingState:
        """All rows, their responses masked, no window open yet."""
        sequences = blank_sequences(prompts, gen_length, mask_token_id)
        rows = torch.arange(len(prompts.tokens), device=prompts.tokens.device)
        zero = torch.zeros_like(rows)
        return cls(
            tokens=sequences.tokens,
            is_real=sequences.is_real,
            row_ids=rows,
            first=zero,
            end=zero,
            previous=zero,
            masks=zero,
            step=zero,
            changed=torch.zeros_like(sequences.is_real),
            prompt_length=prompts.tokens.shape[1],
            mask_token_id=mask_token_id,
        )

    @property
    def response(self) -> Tensor:
        """A view of the responses, int64 `(rows, gen_length)`."""
        return self.tokens[:, self.prompt_length :]

    @property
    def is_masked(self) -> Tensor:
        """What is to be committed, bool `(rows, gen_length)`."""
        return self.response == self.mask_token_id

    @property
    def is_committed(self) -> Tensor:
        """What holds a token for good, bool `(rows, positions)`: prompts, also where guidance has
        masked them, and what is decided of the response."""
        committed = self.is_real.clone()
        committed[:, self.prompt_length :] &= ~self.is_masked
        return committed

    @property
    def prompt_sizes(self) -> Tensor:
        """Tokens of each prompt, padding left out, int64 `(rows,)`."""
        return self.is_real[:, : self.prompt_length].sum(1)

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, rows: Sequence[int] | Tensor) -> Self:
        """The same for some rows only."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: v[rows] for name, v in values.items() if isinstance(v, Tensor)}
        return type(self)(**{**values, **chosen})


@dataclass(frozen=True)
class Columns:
    """Some positions of every row, as many as the longest list has.

    Attributes:
        index: int64 `(rows, width)`; a row with fewer repeats its last one.
        is_open: bool `(rows, width)`, false at repeats.
    """

    index: Tensor
    is_open: Tensor

    @classmethod
    def where(cls, chosen: Tensor) -> Columns:
        """The positions that are true in `chosen`, bool `(rows, positions)`, in order."""
        counts = chosen.sum(1, keepdim=True)
        width = max(1, int(counts.max()))
        order = chosen.long().argsort(dim=1, descending=True, stable=True)[:, :width]
        slot = torch.arange(width, device=chosen.device)
        last = order.gather(1, (counts - 1).clamp(min=0))
        return cls(torch.where(slot < counts, order, last), slot < counts)

    @classmethod
    def span(cls, first: Tensor, end: Tensor) -> Columns:
        """The positions `first` to before `end` of each row, int64 `(rows,)` both."""
        width = int((end - first).max())
        index = first[:, None] + torch.arange(width, device=first.device)
        return cls(torch.minimum(index, end[:, None] - 1), index < end[:, None])
