"""What diverse decoding reads and returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The rows of one step that belong to one prompt, in order.

    Attributes:
        logits: of any float dtype, `(rows, width, vocab)`, at the positions that may be committed
            in this step.
        positions: int64 `(rows, width)`, where in the response each of them lies.
        is_open: bool `(rows, width)`; false where a row has fewer such positions.
        tokens: int64 `(rows, length)`, the response as it stands.
        is_committed: bool `(rows, length)`, which of `tokens` are committed. Positions that are
            neither committed nor open count as nothing.
        strength: float32 `(rows,)`, L2 norm of the largest push of a position; 0 for none.
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


@dataclass(frozen=True)
class Diversified:
    """Candidates after the push.

    Attributes:
        logits: `(rows, width, vocab)` in the dtype of the input; rows that were not pushed are
            equal to it bit for bit.
        basis: float32 `(directions, dimension)`, orthonormal: the history, then what the rows
            added (nothing with `dpp` and `none`).
        quality: float32 `(rows,)`, all 1 where it is off or the strategy is `none`.
    """

    logits: Tensor
    basis: Tensor
    quality: Tensor
