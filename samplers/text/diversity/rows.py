"""Samples as their features see them: probabilities where they are open, tokens where committed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.text.diversity.candidates import Candidates


@dataclass(frozen=True)
class Layout:
    """Where the open positions of all rows lie: each row's first ones, in order of position.

    Attributes:
        slots: int64 `(prompts, rows, width)`, where in the width of the candidates each of them
            lies; behind the open ones follow the others.
        counts: int64 `(prompts, rows)`, open positions of each row; on the CPU.
        is_ordered: whether the candidates have them in that order already.
    """

    slots: Tensor
    counts: Tensor
    is_ordered: bool

    @classmethod
    def of(cls, candidates: Candidates) -> Layout:
        """The layout of candidates with a leading dimension of prompts."""
        is_open, positions = candidates.is_open, candidates.positions
        beyond = candidates.tokens.shape[-1]
        slots = torch.where(is_open, positions, beyond).argsort(dim=-1, stable=True)
        natural = torch.arange(slots.shape[-1], device=slots.device).expand_as(slots)
        return cls(slots, is_open.sum(-1).cpu(), torch.equal(slots, natural))


@dataclass(frozen=True)
class Rows:
    """Some rows of one or several prompts, one below the other; open positions come first.

    Attributes:
        positions: int64 `(rows, width)`, where in the response they lie.
        is_open: bool `(rows, width)`.
        probabilities: float32 `(rows, width, vocab)`, at temperature 1 whatever is sampled with; 0
            where a row is not open.
        visible: the same, 0 outside the largest ones where only those count.
        tokens: int64 `(rows, length)`, the responses.
        counts: bool `(rows, length)`, where a committed token counts.
    """

    positions: Tensor
    is_open: Tensor
    probabilities: Tensor
    visible: Tensor
    tokens: Tensor
    counts: Tensor

    @property
    def open_counts(self) -> Tensor:
        """Open positions of each row, int64 `(rows,)`; 1 where there are none."""
        return self.is_open.sum(-1).clamp(min=1)


class RowReader:
    """Reads rows of the candidates. All share one memory: what was read before is overwritten.

    Args:
        candidates: with a leading dimension of prompts.
        top_k: how many probabilities per position count; 0 for all.
        dropped: int64 `(tokens,)`, which do not count where they are committed.
        most_rows: most rows of each prompt that are read at a time.
    """

    def __init__(
        self, candidates: Candidates, *, top_k: int, dropped: Tensor, most_rows: int
    ) -> None:
        self._candidates = candidates
        self._top_k = top_k
        self._dropped = dropped
        self.layout = Layout.of(candidates)
        prompts, _, width, vocab = candidates.logits.shape
        room = prompts * most_rows * width * vocab
        self._memory = torch.empty(room, dtype=torch.float32, device=candidates.logits.device)

    def width(self, rows: slice) -> int:
        """Open positions of that one of these rows which has most."""
        return int(self.layout.counts[:, rows].max())

    def slots(self, rows: slice) -> Tensor:
        """Slots of these rows' open positions, int64 `(prompts, rows, width)`; see `Layout`."""
        return self.layout.slots[:, rows, : self.width(rows)]

    def opened(self, logits: Tensor, rows: slice) -> Tensor:
        """Logits of these rows at their open positions, `(prompts, rows, width, vocab)`.

        Args:
            logits: `(prompts, rows, width, vocab)`, of these rows as they are by now.
            rows: which they are.
        """
        if self.layout.is_ordered:
            return logits[..., : self.width(rows), :]
        return logits.gather(-2, spread(self.slots(rows), logits))

    def read(self, logits: Tensor, rows: slice) -> Rows:
        """Rows with these logits, which are as in `opened`."""
        given, slots = self._candidates, self.slots(rows)
        opened = self.opened(logits, rows)
        memory = self._memory[: opened.numel()].view(opened.shape)
        probabilities = torch.softmax(opened, -1, dtype=torch.float32, out=memory).flatten(0, 1)
        is_open = given.is_open[:, rows].gather(-1, slots).flatten(0, 1)
        if not bool(is_open.all()):
            probabilities.masked_fill_(~is_open[..., None], 0)
        tokens = given.tokens[:, rows].flatten(0, 1)
        counts = given.is_committed[:, rows].flatten(0, 1) & ~torch.isin(tokens, self._dropped)
        return Rows(
            positions=given.positions[:, rows].gather(-1, slots).flatten(0, 1),
            is_open=is_open,
            probabilities=probabilities,
            visible=_largest(probabilities, self._top_k) if self._top_k else probabilities,
            tokens=tokens,
            counts=counts,
        )


def spread(slots: Tensor, logits: Tensor) -> Tensor:
    """Slots `(..., width)` as an index into `logits` `(..., width, vocab)`, without a copy."""
    return slots[..., None].expand(*slots.shape, logits.shape[-1])


def _largest(probabilities: Tensor, top_k: int) -> Tensor:
    """The `top_k` largest of each position, not renormalised, as published; the others are 0."""
    values, tokens = probabilities.topk(min(top_k, probabilities.shape[-1]), dim=-1)
    return torch.zeros_like(probabilities).scatter_(-1, tokens, values)
