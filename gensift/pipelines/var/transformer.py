"""VAR's transformer: predicts the codebook indices of a scale from the class and coarser scales.

Source: VAR, arXiv 2404.02905, sections 3.3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# When a pipeline is loaded, diffusers looks for the base class in the module of the class itself.
from diffusers import ModelMixin as ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from gensift.denoising.modules import moved_for_call
from gensift.errors import ConfigError
from gensift.pipelines.next_scale.scales import ScaleSchedule, square_schedule
from gensift.pipelines.next_scale.transformer import Conditions, NextScaleTransformer, Positions

FEED_FORWARD_FACTOR = 4


class VARTransformer(NextScaleTransformer):
    """Class-conditional transformer; see `NextScaleTransformer.forward`.

    Args:
        num_layers: blocks.
        num_attention_heads: heads of the attention.
        attention_head_dim: channels of each.
        num_classes: classes; one more embedding stands for none of them.
        codebook_size: entries that a token is chosen from.
        latent_channels: of the tokenizer.
        scales: sides of the token grids, the only ones that the model has positions for.
        has_shared_modulation: whether the blocks share one AdaLN layer.
        cosine: whether queries and keys have norm 1.
    """

    @register_to_config
    def __init__(
        self,
        num_layers: int = 16,
        num_attention_heads: int = 16,
        attention_head_dim: int = 64,
        num_classes: int = 1000,
        codebook_size: int = 4096,
        latent_channels: int = 32,
        scales: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        has_shared_modulation: bool = False,
        cosine: bool = True,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        self._build(
            num_layers=num_layers,
            num_heads=num_attention_heads,
            head_dim=attention_head_dim,
            input_channels=latent_channels,
            num_logits=codebook_size,
            num_levels=len(scales),
            feed_forward=FEED_FORWARD_FACTOR * width,
            shared_modulation=has_shared_modulation,
            cosine=cosine,
        )
        length = square_schedule(scales).ends[-1]
        self.class_embedding = nn.Embedding(num_classes + 1, width)
        self.token_positions = nn.Parameter(torch.zeros(length, width))

    @property
    def schedule(self) -> ScaleSchedule:
        """The model's grids."""
        return square_schedule(self.config.scales)

    @property
    def null_class(self) -> int:
        """Label of no class."""
        return int(self.config.num_classes)

    @moved_for_call
    def conditions(self, class_labels: Tensor) -> Conditions:
        """Prepare labels, int64 `(labels,)`; `null_class` stands for none."""
        embedded = self.class_embedding(class_labels.to(self.device))
        blocks, head = self.modulation_of(embedded)
        return Conditions(first=embedded, blocks=blocks, head=head)

    def positions(self, schedule: ScaleSchedule, first: int, end: int) -> Positions:
        """Level embeddings, and a vector for each place of each scale.

        Raises:
            ConfigError: the schedule is not the model's own.
        """
        own = self.schedule
        if schedule.scales != own.scales:
            raise ConfigError(
                f"This model has positions for grids of sides {self._sides(own)} alone; the grids "
                f"{self._sides(schedule)} were given."
            )
        begins = [0, *own.ends]
        places = self.token_positions[begins[first] : begins[end]]
        return Positions(self._level_embeddings(schedule, first, end) + places)

    @staticmethod
    def _sides(schedule: ScaleSchedule) -> str:
        return ", ".join(
            str(height) if height == width else f"{height}x{width}"
            for height, width in schedule.scales
        )
