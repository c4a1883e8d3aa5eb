"""Random directions that belong to a row and a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gensift.randomness import derived_seed, make_generators


def random_directions(weights: Tensor, seeds: Sequence[int], step: int) -> Tensor:
    """Unit vectors of Gaussian noise times `weights`, float32 `(rows, dimension)`.

    Each is drawn on the CPU from a stream of its own: the same on every device and in every batch,
    and no other stream moves.
    """
    own = [derived_seed([seed, step], "diversity direction") for seed in seeds]
    drawn = [torch.randn(weights.shape[1], generator=g) for g in make_generators(own)]
    return normalize(torch.stack(drawn).to(weights.device) * weights, dim=1)
