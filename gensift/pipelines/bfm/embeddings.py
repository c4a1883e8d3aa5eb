"""Time and class as one vector."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from gensift.denoising.modules import get_timestep_embedding

FREQUENCIES = 256


class ConditionEmbedding(nn.Module):
    """Time plus class, `(rows, width)`; the last row of the class table stands for no class."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.time_in = nn.Linear(FREQUENCIES, width)
        self.time_out = nn.Linear(width, width)
        self.classes = nn.Embedding(num_classes + 1, width)

    def forward(self, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """`timestep` float `(rows,)` in [0, 1], unscaled; `class_labels` int64 `(rows,)`."""
        waves = get_timestep_embedding(
            timestep.float(), FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        time = self.time_out(silu(self.time_in(waves.to(self.time_in.weight.dtype))))
        result: Tensor = time + self.classes(class_labels)
        return result
