"""BLIP's text encoder that looks at a picture, for inference; keys as in published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


@dataclass(frozen=True, kw_only=True)
class BlipSizes:
    """Sizes of the two networks; the defaults are those of ImageReward.

    Attributes:
        image_size, patch_size: edges in pixels.
        image_width, image_layers, image_heads: of the vision transformer, ViT-L.
        width, layers, heads, inner_width: of the text encoder, BERT-base.
        vocab_size: with the two marks that BLIP adds to BERT's.
        max_positions: tokens that have a position.
    """

    image_size: int = 224
    patch_size: int = 16
    image_width: int = 1024
    image_layers: int = 24
    image_heads: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    inner_width: int = 3072
    vocab_size: int = 30524
    max_positions: int = 512


class Blip(nn.Module):
    """Text tokens that attend to each other and to the patches of a picture.

    Source: Li et al. 2022, "BLIP", image-grounded text encoder.
    """

    def __init__(self, sizes: BlipSizes) -> None:
        """Make a network with random weights."""
        super().__init__()
        self.visual_encoder = _VisionTransformer(sizes)
        self.text_encoder = _TextEncoder(sizes)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Encode prompts in view of their pictures.

        Args:
            pixels: float `(batch, 3, image_size, image_size)`, normalised.
            tokens: int64 `(batch, length)`.
            mask: bool `(batch, length)`, false where tokens are padding.

        Returns:
            float `(batch, length, width)`.
        """
        states: Tensor = self.text_encoder(tokens, mask, self.visual_encoder(pixels))
        return states


def _attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Attention of `(batch, length, width)`, split into heads; `mask` is true where to look."""
    query, key, value = (
        part.reshape(*part.shape[:-1], heads, -1).transpose(1, 2) for part in (query, key, value)
    )
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


class _VisionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](self.norm1(states)).chunk(3, dim=-1)
        states = states + self.attn["proj"](_attend(query, key, value, self.heads))
        inner = gelu(self.mlp["fc1"](self.norm2(states)))
        result: Tensor = states + self.mlp["fc2"](inner)
        return result


class _VisionTransformer(nn.Module):
    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        width, patch = sizes.image_width, sizes.patch_size
        patches = (sizes.image_size // patch) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(
            _VisionBlock(width, sizes.image_heads) for _ in range(sizes.image_layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(pixels), -1, -1)
        states = torch.cat([first, patches], dim=1) + self.pos_embed
        for block in self.blocks:
            states = block(states)
        result: Tensor = self.norm(states)
        return result


def _added(width: int, inner: int) -> nn.ModuleDict:
    """What BERT calls an output: a linear layer, and the norm of its sum with the input."""
    norm = nn.LayerNorm(width, eps=1e-12)
    return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": norm})


class _TextAttention(nn.Module):
    def __init__(self, width: int, heads: int, seen_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.ModuleDict(
            {
                "query": nn.Linear(width, width),
                "key": nn.Linear(seen_width, width),
                "value": nn.Linear(seen_width, width),
            }
        )
        self.output = _added(width, width)

    def forward(self, states: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = self.self["query"](states), self.self["key"](seen), self.self["value"](seen)
        mixed = self.output["dense"](_attend(*parts, self.heads, mask))
        result: Tensor = self.output["LayerNorm"](mixed + states)
        return result


class _TextLayer(nn.Module):
    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        width, inner = sizes.width, sizes.inner_width
        self.attention = _TextAttention(width, sizes.heads, width)
        self.crossattention = _TextAttention(width, sizes.heads, sizes.image_width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _added(width, inner)

    def forward(self, states: Tensor, mask: Tensor, picture: Tensor) -> Tensor:
        states = self.attention(states, states, mask)
        states = self.crossattention(states, picture)
        inner = gelu(self.intermediate["dense"](states))
        result: Tensor = self.output["LayerNorm"](self.output["dense"](inner) + states)
        return result


class _TextEncoder(nn.Module):
    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(sizes.vocab_size, sizes.width),
                "position_embeddings": nn.Embedding(sizes.max_positions, sizes.width),
                "LayerNorm": nn.LayerNorm(sizes.width, eps=1e-12),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(_TextLayer(sizes) for _ in range(sizes.layers))}
        )

    def forward(self, tokens: Tensor, mask: Tensor, picture: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        embedded = self.embeddings["word_embeddings"](tokens)
        embedded = embedded + self.embeddings["position_embeddings"](positions)
        states: Tensor = self.embeddings["LayerNorm"](embedded)
        for layer in self.encoder["layer"].children():
            states = layer(states, mask[:, None, None, :], picture)
        return states
