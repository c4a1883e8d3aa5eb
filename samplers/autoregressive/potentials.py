"""What the rewards of a candidate and of its ancestors say about it.

Source: TTS-VAR, arXiv 2507.18537, section 4.3. Everything is a logarithm, so no reward overflows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samplers.autoregressive.config import Potential


def log_weights(potential: Potential, history: Sequence[Tensor]) -> Tensor:
    """Log weights, not normalized, float64 `(candidates,)`.

    - value: the newest reward;
    - max, sum: of all rewards so far;
    - diff: how much the newest is above the one before (the newest itself where it is the first).

    Args:
        potential: which of these.
        history: of every scale that was scored, oldest first, what it said of each candidate's
            ancestor at that scale, `(candidates,)`, already multiplied by the strength.

    A candidate whose newest reward is not finite gets -inf.
    """
    table = torch.stack([rewards.double() for rewards in history])
    newest = table[-1]
    past = torch.where(torch.isfinite(table), table, torch.zeros_like(table))
    if potential == "max":
        weights = torch.where(torch.isfinite(table), table, -torch.inf).amax(0)
    elif potential == "sum":
        weights = past.sum(0)
    elif potential == "diff" and len(table) > 1:
        weights = newest - past[-2]
    else:
        weights = newest
    weights = torch.where(torch.isfinite(newest), weights, -torch.inf)
    # Without a finite reward anywhere nobody is better than anybody else.
    return weights if bool(torch.isfinite(weights).any()) else torch.zeros_like(weights)


def standardized(rewards: Tensor) -> Tensor:
    """`rewards` `(candidates,)` in units of their spread, float64; all 0 where they are equal."""
    wide = rewards.double()
    finite = wide[torch.isfinite(wide)]
    spread = finite.std(correction=0) if len(finite) else torch.zeros(())
    if spread == 0:
        return torch.where(torch.isfinite(wide), 0.0, wide)
    return (wide - finite.mean()) / spread
