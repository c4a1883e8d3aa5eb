"""Who may look at whom: attention rules of models that were trained on blocks, or on none."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from samplers.text.state import DecodingState


class AttentionRule(Protocol):
    """Says what a position may look at.

    Attributes:
        is_local: whether nothing looks behind the window, so that what is committed before it stays
            as it is.
    """

    is_local: bool

    def start(self, state: DecodingState, first: Tensor) -> Tensor:
        """Where what may change with the window begins, int64 `(rows,)`, in the sequence.

        Args:
            state: the rows.
            first: int64 `(rows,)`, where the window begins in the response.
        """
        ...

    def mask(self, state: DecodingState, queries: Tensor) -> Tensor | None:
        """True where a query may look, bool `(rows, 1, queries or 1, positions)`; None: everywhere.

        Args:
            state: the rows; windows are counted from the start of the response.
            queries: int64 `(rows, queries)`, positions in the sequence.
        """
        ...


class Full:
    """Everyone looks at everything but padding."""

    is_local = False

    def start(self, state: DecodingState, first: Tensor) -> Tensor:
        """Everything sees the window; int64 `(rows,)`."""
        return torch.zeros_like(first)

    def mask(self, state: DecodingState, queries: Tensor) -> Tensor | None:
        """Padding is hidden, where there is any; bool `(rows, 1, 1, positions)`."""
        return padding_mask(state.is_real)


def padding_mask(is_real: Tensor) -> Tensor | None:
    """Hides padding from every query, bool `(rows, 1, 1, positions)`; None without padding."""
    return None if bool(is_real.all()) else is_real[:, None, None]


class BlockCausal:
    """A block looks at itself and at the blocks before it; the prompt is made of blocks, too.

    Source: BD3-LM (arXiv 2503.09573), LLaDA2 (arXiv 2512.15745).

    Args:
        length: of a block, counted from the first token that is no padding.
    """

    is_local = True

    def __init__(self, length: int) -> None:
        self._length = length

    def start(self, state: DecodingState, first: Tensor) -> Tensor:
        """With the block, which may begin in the prompt; int64 `(rows,)`."""
        inside = (state.prompt_sizes + first) % self._length
        return state.prompt_length + first - inside

    def mask(self, state: DecodingState, queries: Tensor) -> Tensor:
        """Keys of the same block or an earlier one; bool `(rows, 1, queries, positions)`."""
        block = (state.is_real.long().cumsum(1) - 1).div(self._length, rounding_mode="floor")
        asking = block.gather(1, queries)
        return _with_self(block[:, None] <= asking[..., None], state, queries)


class ContextCausal:
    """The window looks both ways, what is committed before it only backwards.

    Source: NBDiff (arXiv 2512.06776): an autoregressive model is the case of windows of one.
    """

    is_local = True

    def start(self, state: DecodingState, first: Tensor) -> Tensor:
        """With the window, as nothing before it sees it; int64 `(rows,)`."""
        return state.prompt_length + first

    def mask(self, state: DecodingState, queries: Tensor) -> Tensor:
        """Keys up to the query, in the window to its end; bool `(rows, 1, queries, positions)`."""
        key = torch.arange(state.tokens.shape[1], device=queries.device)
        first, end = (state.prompt_length + edge[:, None] for edge in (state.first, state.end))
        is_inside = (queries >= first) & (queries < end)
        horizon = torch.where(is_inside, end - 1, queries)
        return _with_self(key <= horizon[..., None], state, queries)


def _with_self(allowed: Tensor, state: DecodingState, queries: Tensor) -> Tensor:
    """Hide padding; padding itself looks at itself, as attention to nothing is not a number."""
    key = torch.arange(state.tokens.shape[1], device=queries.device)
    itself = key == queries[..., None]
    return ((allowed & state.is_real[:, None]) | itself)[:, None]
