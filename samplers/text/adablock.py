"""AdaBlock: blocks that end where the text makes a break."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samplers.text.state import DecodingState
from samplers.text.windows import Proposal


class AdaBlock:
    """A block ends after the surest delimiter near its start, if that is sure enough.

    Source: AdaBlock-dLLM (arXiv 2509.26432), algorithm 1. `shortest` is ours: every block costs a
    full forward pass with caches, which tiny blocks do not earn back.

    Args:
        length: of a block without such a delimiter.
        delimiters: token ids that may end one.
        threshold: least probability of the delimiter; infinite gives fixed blocks.
        share: part of the response in which delimiters are looked for.
        shortest: least length of a block.
    """

    def __init__(
        self,
        length: int,
        delimiters: Sequence[int],
        threshold: float = 0.3,
        share: float = 0.25,
        shortest: int = 1,
    ) -> None:
        self._length = length
        self._delimiters = torch.tensor(list(delimiters), dtype=torch.long)
        self._threshold = threshold
        self._share = share
        self._shortest = shortest

    def _looked_at(self, state: DecodingState) -> int:
        return int(self._share * state.response.shape[1])

    def reach(self, state: DecodingState) -> Tensor:
        """What is looked at or the default length, whichever is more, int64 `(rows,)`."""
        left = state.response.shape[1] - state.first
        return left.clamp(max=max(self._looked_at(state), self._length))

    def size(self, state: DecodingState, proposal: Proposal) -> Tensor:
        """Up to and with the most confident delimiter, or the default length, int64 `(rows,)`."""
        offset = proposal.position - state.first[:, None]
        is_delimiter = torch.isin(proposal.tokens, self._delimiters.to(offset.device))
        is_delimiter &= offset < self._looked_at(state)
        confidence = proposal.confidence.masked_fill(~is_delimiter, -torch.inf)
        best, at = confidence.max(1)
        found = offset.gather(1, at[:, None])[:, 0] + 1
        left = state.response.shape[1] - state.first
        wanted = torch.where(best >= self._threshold, found.clamp(min=self._shortest), self._length)
        return torch.minimum(wanted, left)

    def limit(self, is_masked: Tensor) -> Tensor:
        """All, bool `(rows, gen_length)`."""
        return is_masked
