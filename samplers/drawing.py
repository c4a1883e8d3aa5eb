"""Drawing indices by weights. Weights are logarithms, so that none overflow or vanish."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def probabilities(log_weights: Tensor) -> Tensor:
    """Normalized weights `(N,)`, float64; shares of a common factor do not matter."""
    return torch.softmax(log_weights.to(torch.float64), dim=0)


def effective_size(log_weights: Tensor) -> float:
    """1 / sum of squares of weights `(N,)`: N for equal ones, 1 where one outweighs the rest."""
    return float(1 / probabilities(log_weights).square().sum())


def systematic(
    log_weights: Tensor, generator: torch.Generator, size: int | None = None
) -> list[int]:
    """Draw `size` (by default N) ascending indices, each `size` times its probability often.

    That is rounded down or up; `log_weights` are `(N,)`.

    One uniform number moves N equidistant pointers; on average the counts are exact.
    Source: Kitagawa 1996, appendix; Douc and Cappé 2005, section 2.4.
    """
    size = len(log_weights) if size is None else size
    start = torch.rand((), dtype=torch.float64, generator=generator)
    return _at(log_weights, (torch.arange(size, dtype=torch.float64) + start) / size)


def multinomial(
    log_weights: Tensor, generator: torch.Generator, size: int | None = None
) -> list[int]:
    """Draw as many ascending indices independently, by weights `(N,)`: with more scatter."""
    size = len(log_weights) if size is None else size
    points = torch.rand(size, dtype=torch.float64, generator=generator)
    return _at(log_weights, points.sort().values)


def draw_one(log_weights: Tensor, generator: torch.Generator) -> int:
    """Draw one index by weights `(N,)`."""
    return _at(log_weights, torch.rand(1, dtype=torch.float64, generator=generator))[0]


def in_place(drawn: Sequence[int]) -> list[int]:
    """Order the drawn indices so that whoever was drawn stays in its own place.

    The places of the others go to the further copies, in ascending order.
    """
    chosen = set(drawn)
    copies = sorted(drawn)
    for index in chosen:
        copies.remove(index)
    spare = iter(copies)
    return [place if place in chosen else next(spare) for place in range(len(drawn))]


def _at(log_weights: Tensor, points: Tensor) -> list[int]:
    """The index whose share of [0, 1) holds each point."""
    share = probabilities(log_weights)
    bounds = share.cumsum(0)
    # A point beyond the rounded sum belongs to the last index that has a share at all.
    last = int(share.nonzero()[-1])
    return torch.searchsorted(bounds, points, right=True).clamp(max=last).tolist()
