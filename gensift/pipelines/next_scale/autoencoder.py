"""Convolutional encoder and decoder of both tokenizers, the VQGAN of the two papers.

VAR's has attention at its lowest resolution and in the middle, Infinity's has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    interpolate,
    pad,
    scaled_dot_product_attention,
    silu,
)

NORM_EPS = 1e-6


class CoderOptions(TypedDict):
    """Options that an encoder and its decoder have in common; see `Encoder`."""

    num_blocks: int
    groups: int
    has_attention: bool


class ResnetBlock(nn.Module):
    """Two convolutions and a shortcut, `(batch, inputs, h, w)` to `(batch, outputs, h, w)`."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, inputs, h, w)` to `(batch, outputs, h, w)`."""
        hidden = self.conv1(silu(self.norm1(x)))
        hidden = self.conv2(silu(self.norm2(hidden)))
        output: Tensor = hidden + self.shortcut(x)
        return output


class AttentionBlock(nn.Module):
    """Attention of one head among all places of a picture."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels, h, w)`, before and after."""
        query, key, value = (
            part.flatten(2).transpose(1, 2)[:, None]
            for part in self.to_qkv(self.norm(x)).chunk(3, dim=1)
        )
        hidden = scaled_dot_product_attention(query, key, value)[:, 0]
        output: Tensor = x + self.to_out(hidden.transpose(1, 2).reshape(x.shape))
        return output


class Downsample(nn.Module):
    """Halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels, h, w)` to `(batch, channels, h / 2, w / 2)`."""
        output: Tensor = self.conv(pad(x, (0, 1, 0, 1)))
        return output


class Upsample(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels, h, w)` to `(batch, channels, 2 h, 2 w)`."""
        output: Tensor = self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
        return output


class Level(nn.Module):
    """All blocks at one resolution, then a change of resolution (or none)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        num_blocks: int,
        groups: int,
        has_attention: bool,
        resample: nn.Module,
    ) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * num_blocks
        self.blocks = nn.ModuleList(
            ResnetBlock(widths[i], widths[i + 1], groups) for i in range(num_blocks)
        )
        self.attentions = nn.ModuleList(
            AttentionBlock(outputs, groups) if has_attention else nn.Identity()
            for _ in range(num_blocks)
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, inputs, h, w)` to `(batch, outputs, h, w)`, resampled."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(x))
        output: Tensor = self.resample(x)
        return output


class Middle(nn.Module):
    """Blocks at the lowest resolution."""

    def __init__(self, channels: int, groups: int, has_attention: bool) -> None:
        super().__init__()
        self.block1 = ResnetBlock(channels, channels, groups)
        self.attention = AttentionBlock(channels, groups) if has_attention else nn.Identity()
        self.block2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels, h, w)`, before and after."""
        output: Tensor = self.block2(self.attention(self.block1(x)))
        return output


class Encoder(nn.Module):
    """Pictures `(batch, 3, height, width)` in [-1, 1] to `(batch, latent_channels, h, w)`.

    Args:
        channels: of each level, from full resolution down; each step halves height and width.
        latent_channels: of the result.
        num_blocks: residual blocks per level.
        groups: of the group norms.
        has_attention: whether the lowest level and the middle have attention.
    """

    def __init__(
        self,
        channels: Sequence[int],
        latent_channels: int,
        *,
        num_blocks: int,
        groups: int,
        has_attention: bool,
    ) -> None:
        super().__init__()
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                channels[max(i - 1, 0)],
                width,
                num_blocks=num_blocks,
                groups=groups,
                has_attention=has_attention and i == last,
                resample=nn.Identity() if i == last else Downsample(width),
            )
            for i, width in enumerate(channels)
        )
        self.middle = Middle(channels[-1], groups, has_attention)
        self.norm_out = nn.GroupNorm(groups, channels[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], latent_channels, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """`(batch, 3, height, width)` in [-1, 1] to `(batch, latent_channels, h, w)`."""
        hidden = self.conv_in(pictures)
        for level in self.levels:
            hidden = level(hidden)
        output: Tensor = self.conv_out(silu(self.norm_out(self.middle(hidden))))
        return output


class Decoder(nn.Module):
    """The way back; arguments as in `Encoder`. Each level has one block more than the encoder's."""

    def __init__(
        self,
        channels: Sequence[int],
        latent_channels: int,
        *,
        num_blocks: int,
        groups: int,
        has_attention: bool,
    ) -> None:
        super().__init__()
        upwards = list(reversed(channels))
        last = len(upwards) - 1
        self.conv_in = nn.Conv2d(latent_channels, upwards[0], 3, padding=1)
        self.middle = Middle(upwards[0], groups, has_attention)
        self.levels = nn.ModuleList(
            Level(
                upwards[max(i - 1, 0)],
                width,
                num_blocks=num_blocks + 1,
                groups=groups,
                has_attention=has_attention and i == 0,
                resample=nn.Identity() if i == last else Upsample(width),
            )
            for i, width in enumerate(upwards)
        )
        self.norm_out = nn.GroupNorm(groups, upwards[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(upwards[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """`(batch, latent_channels, h, w)` to `(batch, 3, height, width)`, about [-1, 1]."""
        hidden = self.middle(self.conv_in(latents))
        for level in self.levels:
            hidden = level(hidden)
        output: Tensor = self.conv_out(silu(self.norm_out(hidden)))
        return output


def as_pictures(decoded: Tensor) -> Tensor:
    """Decoder output `(batch, 3, height, width)` as float32 pictures in [0, 1]."""
    return (decoded.float().clamp(-1, 1) + 1) / 2


def resized(latents: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Latents `(batch, channels, H, W)` at another size; as they are when they have it."""
    if tuple(latents.shape[-2:]) == size:
        return latents
    if mode == "area":
        return adaptive_avg_pool2d(latents, size)
    return interpolate(latents, size, mode=mode, align_corners=False)
