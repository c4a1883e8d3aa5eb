"""Random directions that belong to a row and a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gensift.randomness import derived_seed, make_generators


def random_direction(weights: Tensor, seed: int, step: int) -> Tensor:
    """A unit vector of Gaussian noise times `weights`, float32 `(dimension,)`.

    It is drawn on the CPU from a stream of its own: the same on every device, and no other stream
    moves.
    """
    (generator,) = make_generators([derived_seed([seed, step], "diversity direction")])
    noise = torch.randn(len(weights), generator=generator).to(weights.device)
    return normalize(noise * weights, dim=0)
