"""What turns conditions into the shifts, scales and gates of blocks. All of it starts at zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gensift.pipelines.next_scale.blocks import modulated

MODULATIONS = 6


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts as zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class LowRankModulation(nn.Module):
    """`(rows, n, condition)`, activated, to `(rows, n, 6 * width)` through few channels."""

    def __init__(self, condition: int, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(condition, rank)
        self.up = zero_linear(rank, MODULATIONS * width)

    def forward(self, condition: Tensor) -> Tensor:
        result: Tensor = self.up(self.down(condition))
        return result


def full_modulation(condition: int, width: int) -> nn.Linear:
    """The same through a single matrix."""
    return zero_linear(condition, MODULATIONS * width)


class FinalLayer(nn.Module):
    """From tokens to patches of velocity, float32."""

    def __init__(self, condition: int, width: int, patch_channels: int) -> None:
        super().__init__()
        self.modulation = zero_linear(condition, 2 * width)
        self.out = zero_linear(width, patch_channels)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """`tokens` `(rows, n, width)`; `condition` `(rows, n or 1, condition)`, activated."""
        return self.project(tokens, self.modulation(condition))

    def project(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """The same with ready shift and scale, `(rows, n or 1, 2 * width)`."""
        shift, scale = modulation.chunk(2, dim=-1)
        # A rounded velocity would round the whole trajectory.
        hidden = modulated(tokens, scale, shift).float()
        with torch.autocast(tokens.device.type, enabled=False):
            return linear(hidden, self.out.weight.float(), self.out.bias.float())
