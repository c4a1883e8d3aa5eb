"""Where in the response a step may commit: window policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from samplers.text.state import DecodingState


@dataclass(frozen=True)
class Proposal:
    """What the model proposes at all masked positions of a window, in order of position.

    Attributes:
        position: int64 `(rows, width)`, within the response.
        tokens: int64 `(rows, width)`.
        confidence: float32 `(rows, width)`, -inf where a row has fewer positions.
    """

    position: Tensor
    tokens: Tensor
    confidence: Tensor

    def select(self, rows: Tensor) -> Proposal:
        """The same for some rows only."""
        return Proposal(self.position[rows], self.tokens[rows], self.confidence[rows])


class WindowPolicy(Protocol):
    """Opens a window after the one that is full."""

    def reach(self, state: DecodingState) -> Tensor:
        """Most positions that the next window may have, int64 `(rows,)`, at least 1."""
        ...

    def size(self, state: DecodingState, proposal: Proposal) -> Tensor:
        """Positions that it does have, by what is proposed within reach; int64 `(rows,)`."""
        ...

    def limit(self, is_masked: Tensor) -> Tensor:
        """Which of the masked positions in the window are eligible, bool `(rows, gen_length)`."""
        ...


class Blocks:
    """Blocks of fixed length, from left to right; the last one may be shorter.

    Args:
        length: of a block; None for the whole response as one.
        with_prompt: whether blocks are counted from the start of the prompt, as models trained on
            blocks want it; the first one is shorter then.
    """

    def __init__(self, length: int | None = None, *, with_prompt: bool = False) -> None:
        self._length = length
        self._with_prompt = with_prompt

    def reach(self, state: DecodingState) -> Tensor:
        """The length, or what is left, int64 `(rows,)`."""
        left = state.response.shape[1] - state.first
        if self._length is None:
            return left
        taken = (state.prompt_sizes + state.first) % self._length if self._with_prompt else 0
        return torch.minimum(left, torch.as_tensor(self._length) - taken)

    def size(self, state: DecodingState, proposal: Proposal) -> Tensor:
        """What is proposed makes no difference, int64 `(rows,)`."""
        return self.reach(state)

    def limit(self, is_masked: Tensor) -> Tensor:
        """All, bool `(rows, gen_length)`."""
        return is_masked


class Sliding:
    """The leftmost masked positions, `length` of them, wherever they are. Source: Elastic-Cache."""

    def __init__(self, length: int) -> None:
        self._length = length

    def reach(self, state: DecodingState) -> Tensor:
        """Everything, int64 `(rows,)`: it slides over the whole response."""
        return state.response.shape[1] - state.first

    def size(self, state: DecodingState, proposal: Proposal) -> Tensor:
        """Everything, int64 `(rows,)`."""
        return self.reach(state)

    def limit(self, is_masked: Tensor) -> Tensor:
        """The leftmost ones, bool `(rows, gen_length)`."""
        return is_masked & (is_masked.long().cumsum(1) <= self._length)
