"""Infinity's tokenizer: multi-scale binary spherical quantization of latents, without a codebook.

Source: Infinity, arXiv 2412.04431, sections 3.1 (bitwise tokenizer) and 3.3 (self-correction);
the quantizer is BSQ, arXiv 2406.07548.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import normalize, pixel_shuffle, pixel_unshuffle

from gensift.denoising.modules import moved_for_call
from gensift.pipelines.next_scale.autoencoder import (
    CoderOptions,
    Decoder,
    Encoder,
    as_pictures,
    resized,
)
from gensift.pipelines.next_scale.scales import Scale


@dataclass(frozen=True)
class Quantized:
    """Latents written as bits.

    Attributes:
        bits: bool, per scale `(batch, token_channels, h, w)`: what a model has to predict.
        inputs: per scale but the first `(batch, token_channels, h, w)`: what it sees before.
        latents: `(batch, latent_channels, H, W)`, the sum of all codes.
    """

    bits: list[Tensor]
    inputs: list[Tensor]
    latents: Tensor


class InfinityTokenizer(ModelMixin, ConfigMixin):
    """Autoencoder whose latents are a sum of bits on grids from 1 x 1 up to the full one.

    A token holds `token_channels` bits; with `patch_size` 2 it covers 2 x 2 places of the latents
    (pixel unshuffle), so that grids have half their sides and tokens four times their channels.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        block_out_channels: Sequence[int] = (128, 256, 512, 512, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        shape: CoderOptions = {
            "num_blocks": layers_per_block,
            "groups": norm_num_groups,
            "has_attention": False,
        }
        self.encoder = Encoder(block_out_channels, latent_channels, **shape)
        self.decoder = Decoder(block_out_channels, latent_channels, **shape)

    @property
    def token_channels(self) -> int:
        """Bits per token."""
        return int(self.config.latent_channels * self.config.patch_size**2)

    @property
    def downscale(self) -> int:
        """Pixels per side of a token."""
        return int(2 ** (len(self.config.block_out_channels) - 1) * self.config.patch_size)

    def latent_size(self, scale: Scale) -> Scale:
        """Size of the latents of a token grid."""
        patch = self.config.patch_size
        return scale[0] * patch, scale[1] * patch

    def codes(self, bits: Tensor) -> Tensor:
        """Latents `(batch, latent_channels, H, W)` that `bits` `(batch, token_channels, h, w)` say.

        Every place has norm 1.
        """
        size = self.config.latent_channels**0.5
        signs = (bits.to(self.dtype) * 2 - 1) / size
        return pixel_shuffle(signs, self.config.patch_size)

    def add(self, latents: Tensor, bits: Tensor, scale_index: int, num_scales: int) -> Tensor:
        """Latents `(batch, channels, H, W)` with what the bits of one scale add to them."""
        return latents + resized(
            self.codes(bits), (latents.shape[-2], latents.shape[-1]), "bilinear"
        )

    def next_input(self, latents: Tensor, scale: Scale) -> Tensor:
        """What the transformer sees before it predicts `scale`: `(batch, token_channels, h, w)`."""
        small = resized(latents, self.latent_size(scale), "bilinear")
        return pixel_unshuffle(small, self.config.patch_size)

    @moved_for_call
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures in [0, 1] `(batch, 3, height, width)` as latents, not yet quantized."""
        output: Tensor = self.encoder(pictures.to(self.dtype) * 2 - 1)
        return output

    @moved_for_call
    def decode(self, latents: Tensor) -> Tensor:
        """Latents `(batch, latent_channels, H, W)` as float32 pictures in [0, 1]."""
        return as_pictures(self.decoder(latents.to(self.dtype)))

    def quantize(
        self,
        latents: Tensor,
        scales: Sequence[Scale],
        flips: Sequence[Tensor] | None = None,
    ) -> Quantized:
        """Write `latents` as bits, coarse grids first, each coding what the others left over.

        Args:
            latents: of `encode`, `(batch, channels, H, W)`.
            scales: token grids; the last one has the size of the latents.
            flips: bool per scale (or for the first few): bits that go wrong on the way into the
                sum. Later scales then code what undoes them: bitwise self-correction.
        """
        total = torch.zeros_like(latents)
        bits, inputs = [], []
        for k, scale in enumerate(scales):
            if k:
                inputs.append(self.next_input(total, scale))
            rest = resized(latents - total, self.latent_size(scale), "area")
            signs = normalize(rest, dim=1) > 0
            bits.append(pixel_unshuffle(signs.float(), self.config.patch_size) > 0.5)
            sent = bits[-1] ^ flips[k] if flips is not None and k < len(flips) else bits[-1]
            total = self.add(total, sent, k, len(scales))
        return Quantized(bits, inputs, total)
