"""What diverse decoding reads and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The rows of one step that belong to one prompt, in order.

    Several prompts that have as many rows are tensors with a leading dimension of prompts.

    Attributes:
        logits: of any float dtype, `(rows, width, vocab)`, at the positions that may be committed
            in this step.
        positions: int64 `(rows, width)`, where in the response each of them lies.
        is_open: bool `(rows, width)`; false where a row has fewer such positions.
        tokens: int64 `(rows, length)`, the response as it stands.
        is_committed: bool `(rows, length)`, which of `tokens` are committed. Positions that are
            neither committed nor open count as nothing.
        strength: float32 `(rows,)`, L2 norm of the largest change of a position; 0 for none.
        seeds: one per row; they and `step` decide what is drawn at random.
        step: index of the decoding step.
    """

    logits: Tensor
    positions: Tensor
    is_open: Tensor
    tokens: Tensor
    is_committed: Tensor
    strength: Tensor
    seeds: Sequence[int]
    step: int

    def stacked(self) -> Candidates:
        """The same with a leading dimension of one prompt."""
        return self._each(lambda values: values[None], self.seeds)

    def select(self, prompts: slice) -> Candidates:
        """Some prompts of several."""
        return self._each(lambda values: values[prompts], self.seeds)

    def of_prompt(self, prompt: int, seeds: Sequence[int]) -> Candidates:
        """One prompt of several, with the seeds of its rows."""
        return self._each(lambda values: values[prompt], seeds)

    def _each(self, change: Callable[[Tensor], Tensor], seeds: Sequence[int]) -> Candidates:
        return Candidates(
            logits=change(self.logits),
            positions=change(self.positions),
            is_open=change(self.is_open),
            tokens=change(self.tokens),
            is_committed=change(self.is_committed),
            strength=change(self.strength),
            seeds=seeds,
            step=self.step,
        )


@dataclass(frozen=True)
class Diversified:
    """Candidates that have been moved apart.

    Attributes:
        logits: `(rows, width, vocab)` in the dtype of the input; rows that were not moved are equal
            to it bit for bit.
        basis: float32 `(directions, dimension)`, orthonormal: the history, then what the rows
            added (nothing with `dpp` and `none`).
        quality: float32 `(rows,)`, all 1 where it is off or the strategy is `none`.
    """

    logits: Tensor
    basis: Tensor
    quality: Tensor
