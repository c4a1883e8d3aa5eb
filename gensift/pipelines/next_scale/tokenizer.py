"""What a pipeline asks of a multi-scale tokenizer."""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor

from gensift.pipelines.next_scale.scales import Scale


class ScaleTokenizer(Protocol):
    """Turns codes on grids from coarse to fine into latents, and those into pictures."""

    @property
    def config(self) -> FrozenDict:
        """Has `latent_channels`."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        ...

    def latent_size(self, scale: Scale) -> Scale:
        """Size `(height, width)` of the latents of a token grid."""
        ...

    def add(self, latents: Tensor, codes: Tensor, scale_index: int, num_scales: int, /) -> Tensor:
        """`latents` `(rows, channels, H, W)` with what the codes of one scale add to them.

        Args:
            latents: of the scales before.
            codes: of the scale, `(rows, code channels, h, w)`.
            scale_index: of the scale.
            num_scales: of the schedule.
        """
        ...

    def next_input(self, latents: Tensor, scale: Scale) -> Tensor:
        """What the transformer sees before it predicts `scale`, `(rows, code channels, h, w)`."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `(rows, channels, H, W)` as float32 pictures `(rows, 3, h, w)` in [0, 1]."""
        ...
