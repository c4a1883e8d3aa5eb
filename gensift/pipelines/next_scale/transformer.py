"""The transformer of a next-scale model: predicts all tokens of a scale from the coarser ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from gensift.pipelines.next_scale.blocks import MODULATIONS, Block, HeadNorm
from gensift.pipelines.next_scale.kv_cache import KVCache
from gensift.pipelines.next_scale.scales import ScaleSchedule

Text = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Conditions:
    """What the transformer needs of each condition: computed once, used at every scale.

    A condition is a prompt (or a class) of one guidance branch.

    Attributes:
        first: the first token, `(conditions, width)`.
        blocks: per block `(conditions, 6, width)`.
        head: `(conditions, 2, width)`.
        text: per block keys and values `(conditions, length, heads, head_dim)`; None without text.
        text_mask: bool `(conditions, 1, 1, length)`, false at padding; None without padding.
    """

    first: Tensor
    blocks: Sequence[Tensor]
    head: Tensor
    text: Sequence[Text] | None = None
    text_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.first)


class NextScaleTransformer(ModelMixin, ConfigMixin):
    """What VAR and Infinity share; they differ in conditions and in positions.

    `blocks`, `level_embedding` (one vector per scale), `embed` (inputs to width), `head_norm` and
    `head` are named alike. AdaLN is per block, or shared: then `shared_modulation` makes one set of
    vectors to which each block adds its own `block_modulation`.
    """

    config_name = "config.json"
    _no_split_modules = ("Block",)
    uses_attention_dispatcher = True
    """Attention runs on the active backend, which `set_attention_backend` sets for all models."""

    def _build(
        self,
        *,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        input_channels: int,
        num_logits: int,
        num_levels: int,
        feed_forward: int,
        shared_modulation: bool,
        cosine: bool = True,
        text_width: int | None = None,
    ) -> None:
        width = num_heads * head_dim
        self.embed = nn.Linear(input_channels, width)
        self.level_embedding = nn.Embedding(num_levels, width)
        self.start_position = nn.Parameter(torch.zeros(1, width))
        self.blocks = nn.ModuleList(
            Block(width, num_heads, feed_forward, cosine=cosine, text_width=text_width)
            for _ in range(num_layers)
        )
        if shared_modulation:
            self.shared_modulation = nn.Linear(width, MODULATIONS * width)
            self.block_modulation = nn.ParameterList(
                nn.Parameter(torch.zeros(MODULATIONS, width)) for _ in range(num_layers)
            )
        else:
            self.modulations = nn.ModuleList(
                nn.Linear(width, MODULATIONS * width) for _ in range(num_layers)
            )
        self.head_norm = HeadNorm(width)
        self.head = nn.Linear(width, num_logits)

    @property
    def width(self) -> int:
        """Channels of a token inside."""
        return int(self.head.in_features)

    @property
    def num_heads(self) -> int:
        """Attention heads."""
        return int(self.config.num_attention_heads)

    @abstractmethod
    def positions(self, schedule: ScaleSchedule, first: int, end: int) -> Positions:
        """Where the tokens of the scales `first` up to `end` (without it) lie."""

    def make_cache(
        self, branches: int, rows: int, capacity: int, device: torch.device | None = None
    ) -> KVCache:
        """An empty cache for `rows` rows per branch and `capacity` positions."""
        return KVCache(
            num_layers=len(self.blocks),
            branches=branches,
            rows=rows,
            capacity=capacity,
            num_heads=self.num_heads,
            head_dim=self.width // self.num_heads,
            dtype=self.dtype,
            device=device or self.device,
        )

    def forward(
        self,
        inputs: Sequence[Tensor],
        schedule: ScaleSchedule,
        conditions: Conditions,
        condition_of: Tensor,
        *,
        scale_index: int = 0,
        cache: KVCache | None = None,
        part: slice = slice(None),
    ) -> Tensor:
        """Logits of some scales, float32 `(rows, tokens, num_logits)`.

        With a cache that is one scale, whose keys and values are written behind those of the
        coarser ones. Without, it is all scales up to the last of `inputs` in one pass, each seeing
        itself and what comes before: for training, and to check the cache.

        Args:
            inputs: per scale but the very first `(rows, input_channels, h, w)`; with a cache that
                of its scale alone, and none at scale 0.
            schedule: all grids.
            conditions: as `Conditions` says.
            condition_of: int64 `(rows,)`, the condition of each row.
            scale_index: the scale, with a cache.
            cache: filled up to the scale before; `advance` it when all rows are through.
            part: with a cache, the rows of each of its branches that these are.
        """
        end = scale_index + 1 if cache is not None else len(inputs) + 1
        tokens = [self.embed(grid.flatten(2).transpose(1, 2).to(self.dtype)) for grid in inputs]
        if scale_index == 0:
            start = conditions.first[condition_of][:, None] + self.start_position
            tokens = [start.to(self.dtype), *tokens]
        where = self.positions(schedule, scale_index, end)
        hidden = torch.cat(tokens, dim=1) + where.added.to(self.dtype)
        mask = None if cache is not None else block_causal_mask(schedule, end, hidden.device)
        text_mask = None if conditions.text_mask is None else conditions.text_mask[condition_of]
        for layer, block in enumerate(self.blocks):
            text = conditions.text and conditions.text[layer]
            hidden = block(
                hidden,
                conditions.blocks[layer][condition_of],
                text=text and (text[0][condition_of], text[1][condition_of]),
                text_mask=text_mask,
                rotary=where.rotary,
                cache=None if cache is None else cache.view(layer, part),
                mask=mask,
            )
        hidden = self.head_norm(hidden, conditions.head[condition_of])
        return linear(hidden.float(), self.head.weight.float(), self.head.bias.float())

    def modulation_of(self, condition: Tensor) -> tuple[list[Tensor], Tensor]:
        """What `condition` `(conditions, width)` does to each block, and to the head."""
        active = silu(condition)
        if hasattr(self, "shared_modulation"):
            shared = self.shared_modulation(active).unflatten(-1, (MODULATIONS, -1))
            blocks = [shared + own for own in self.block_modulation]
        else:
            blocks = [own(active).unflatten(-1, (MODULATIONS, -1)) for own in self.modulations]
        return blocks, self.head_norm.modulation(active)

    def _level_embeddings(self, schedule: ScaleSchedule, first: int, end: int) -> Tensor:
        """The embedding of each token's scale, `(tokens, width)`."""
        levels = torch.arange(first, end, device=self.device)
        counts = torch.tensor(schedule.token_counts[first:end], device=self.device)
        output: Tensor = self.level_embedding(levels).repeat_interleave(counts, dim=0)
        return output


@dataclass(frozen=True)
class Positions:
    """How tokens know their places.

    Attributes:
        added: to the tokens, `(tokens, width)`.
        rotary: angles `(tokens, head_dim / 2)` for queries and keys, or None.
    """

    added: Tensor
    rotary: Tensor | None = None


def block_causal_mask(schedule: ScaleSchedule, end: int, device: torch.device) -> Tensor:
    """Bool `(tokens, tokens)`: a token sees its own scale and all coarser ones."""
    counts = torch.tensor(schedule.token_counts[:end], device=device)
    level = torch.arange(end, device=device).repeat_interleave(counts)
    return level[:, None] >= level[None, :]
