"""Infinity's transformer: predicts the bits of a scale from the text and the coarser scales.

Source: Infinity, arXiv 2412.04431, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

# When a pipeline is loaded, diffusers looks for the base class in the module of the class itself.
from diffusers import ModelMixin as ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from gensift.denoising.modules import moved_for_call
from gensift.errors import ConfigError
from gensift.pipelines.attention import attend
from gensift.pipelines.infinity.rotary import rotary_angles
from gensift.pipelines.next_scale.blocks import Block
from gensift.pipelines.next_scale.scales import ScaleSchedule
from gensift.pipelines.next_scale.transformer import Conditions, NextScaleTransformer, Positions

NORM_EPS = 1e-6
FEED_FORWARD_MULTIPLE = 256
POOLING_HEAD_DIM = 128
NUM_LEVELS = 15


class TextNorm(nn.Module):
    """Root-mean-square norm in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, text: Tensor) -> Tensor:
        """`(texts, length, text_width)`, before and after."""
        wide = text.float()
        scale = (wide.square().mean(-1, keepdim=True) + NORM_EPS).rsqrt()
        return (wide * scale * self.weight.float()).to(self.weight.dtype)


class TextPooling(nn.Module):
    """One vector per text: attention of a learned query to its tokens."""

    def __init__(self, text_width: int, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.zeros(num_heads, width // num_heads))
        self.to_kv = nn.Linear(text_width, 2 * width, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.to_out = nn.Linear(width, width)

    def forward(self, text: Tensor, mask: Tensor | None) -> Tensor:
        """`(texts, length, text_width)` to `(texts, width)`."""
        bias = torch.cat([torch.zeros_like(self.value_bias), self.value_bias])
        found = linear(text, self.to_kv.weight, bias)
        keys, values = torch.unflatten(found, -1, (2, self.num_heads, -1)).unbind(2)
        query = self.query.expand(len(text), 1, *self.query.shape)
        scale = self.query.shape[-1] ** -0.5
        output: Tensor = self.to_out(attend(query, keys, values, mask, scale))[:, 0]
        return output


class InfinityTransformer(NextScaleTransformer):
    """Text-conditional transformer; see `NextScaleTransformer.forward`.

    Args:
        num_layers: blocks.
        num_attention_heads: heads of self- and cross-attention.
        attention_head_dim: channels of each.
        token_channels: bits per token.
        text_channels: width of the text encoder.
        text_max_length: longest text in tokens.
        pooling_heads: heads that pool the text into one vector; by default `text_channels` / 128.
        feed_forward_width: by default four times the width, rounded to a multiple of 256.
    """

    @register_to_config
    def __init__(
        self,
        num_layers: int = 32,
        num_attention_heads: int = 16,
        attention_head_dim: int = 128,
        token_channels: int = 32,
        text_channels: int = 2048,
        text_max_length: int = 512,
        pooling_heads: int | None = None,
        feed_forward_width: int | None = None,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        wide = round(4 * width / FEED_FORWARD_MULTIPLE) * FEED_FORWARD_MULTIPLE
        self._build(
            num_layers=num_layers,
            num_heads=num_attention_heads,
            head_dim=attention_head_dim,
            input_channels=token_channels,
            num_logits=2 * token_channels,
            num_levels=NUM_LEVELS,
            feed_forward=feed_forward_width or wide,
            shared_modulation=True,
            text_width=width,
        )
        self.unconditional_text = nn.Parameter(torch.zeros(text_max_length, text_channels))
        self.text_norm = TextNorm(text_channels)
        heads = pooling_heads or max(text_channels // POOLING_HEAD_DIM, 1)
        self.text_pooling = TextPooling(text_channels, width, heads)
        self.text_in = nn.Linear(text_channels, width)
        self.text_out = nn.Linear(width, width)

    def unconditional(self, lengths: Sequence[int]) -> list[Tensor]:
        """The learned texts of no prompt, `(length, text_channels)` for each of `lengths`."""
        longest = len(self.unconditional_text)
        return [self.unconditional_text[: min(length, longest)] for length in lengths]

    @moved_for_call
    def conditions(self, texts: Sequence[Tensor]) -> Conditions:
        """Prepare texts, each the encoder's last hidden state `(length, text_channels)`.

        Raises:
            ConfigError: a text is empty or longer than the model can read.
        """
        longest = len(self.unconditional_text)
        for text in texts:
            if not 0 < len(text) <= longest:
                raise ConfigError(
                    f"A prompt has {len(text)} text tokens; this model reads 1 to {longest}."
                )
        lengths = torch.tensor([len(text) for text in texts], device=self.device)
        padded = nn.utils.rnn.pad_sequence(
            [text.to(self.device, torch.float32) for text in texts], batch_first=True
        )
        is_real = torch.arange(padded.shape[1], device=self.device) < lengths[:, None]
        mask = None if bool(is_real.all()) else is_real[:, None, None]
        return self.conditions_of_batch(padded, mask)

    def conditions_of_batch(self, text: Tensor, mask: Tensor | None) -> Conditions:
        """The same for one padded batch `(texts, length, text_channels)`."""
        normed = self.text_norm(text)
        pooled = self.text_pooling(normed, mask)
        memory = self.text_out(gelu(self.text_in(normed), approximate="tanh"))
        blocks, head = self.modulation_of(pooled)
        readers = [cast(Block, block).cross_attention.keys_and_values for block in self.blocks]
        return Conditions(
            first=pooled,
            blocks=blocks,
            head=head,
            text=[keys_and_values(memory) for keys_and_values in readers],
            text_mask=mask,
        )

    def positions(self, schedule: ScaleSchedule, first: int, end: int) -> Positions:
        """Level embeddings, and rotary angles."""
        head_dim = self.width // self.num_heads
        return Positions(
            self._level_embeddings(schedule, first, end),
            rotary_angles(schedule, first, end, head_dim, self.device),
        )
