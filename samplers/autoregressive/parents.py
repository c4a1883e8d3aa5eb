"""Drawing parents for the next scales from log weights: several ways to spend the places."""

from __future__ import annotations

import torch
from torch import Tensor

from samplers.autoregressive.config import Draw
from samplers.drawing import effective_size, multinomial, systematic

BEAM_CHILDREN = 2


def draw_parents(
    rule: Draw,
    log_weights: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    ess_threshold: float = 0.5,
) -> list[int]:
    """Ascending indices of `size` parents; the same one may come several times.

    - multinomial: independent draws, as published;
    - systematic: each as often as its share, rounded down or up;
    - top-k: the best ones, once each (ties by index);
    - without-replacement: draws by weight, nobody twice;
    - beam: the best half as many, two places each (an odd place goes to the best);
    - adaptive: systematic where the weights are uneven, without replacement elsewhere.

    Args:
        rule: one of these.
        log_weights: not normalized, `(candidates,)`; -inf is never chosen while others are left.
        size: how many, at most as many as there are candidates.
        generator: for the draws.
        ess_threshold: of adaptive: weights are uneven where their effective size is below this
            share of the candidates.
    """
    if rule == "adaptive":
        is_uneven = effective_size(log_weights) < ess_threshold * len(log_weights)
        rule = "systematic" if is_uneven else "without-replacement"
    if rule == "multinomial":
        return multinomial(log_weights, generator, size)
    if rule == "systematic":
        return systematic(log_weights, generator, size)
    if rule == "without-replacement":
        # Gumbel-top-k: the largest perturbed weights are draws without replacement.
        uniform = torch.rand(len(log_weights), dtype=torch.float64, generator=generator)
        log_weights = log_weights - torch.log(-torch.log(uniform))
    best = sorted(range(len(log_weights)), key=lambda at: (-float(log_weights[at]), at))
    if rule != "beam":
        return sorted(best[:size])
    count = max(size // BEAM_CHILDREN, 1)
    return sorted(best[place % count] for place in range(size))
