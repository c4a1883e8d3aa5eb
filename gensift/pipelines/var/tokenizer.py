"""VAR's tokenizer: latents as a sum of codebook vectors on grids from coarse to fine.

Source: VAR, arXiv 2404.02905, section 3.2, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from gensift.denoising.modules import moved_for_call
from gensift.pipelines.next_scale.autoencoder import (
    CoderOptions,
    Decoder,
    Encoder,
    as_pictures,
    resized,
)
from gensift.pipelines.next_scale.scales import Scale

PHI_SHARE = 0.5
"""Share of a smoothing convolution in its result; the rest is what went in."""


@dataclass(frozen=True)
class Quantized:
    """Latents written as codebook indices.

    Attributes:
        indices: int64, per scale `(batch, h, w)`: what a model has to predict.
        inputs: per scale but the first `(batch, latent_channels, h, w)`: what it sees before.
        latents: `(batch, latent_channels, H, W)`, the sum of all codes.
    """

    indices: list[Tensor]
    inputs: list[Tensor]
    latents: Tensor


class VARTokenizer(ModelMixin, ConfigMixin):
    """Autoencoder whose latents are a sum of codes on grids from 1 x 1 up to the full one.

    A code is enlarged to the full grid, then smoothed by one of `num_phi` convolutions, which
    neighbouring scales share.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        codebook_size: int = 4096,
        latent_channels: int = 32,
        block_out_channels: Sequence[int] = (160, 160, 320, 320, 640),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        num_phi: int = 4,
    ) -> None:
        super().__init__()
        shape: CoderOptions = {
            "num_blocks": layers_per_block,
            "groups": norm_num_groups,
            "has_attention": True,
        }
        self.encoder = Encoder(block_out_channels, latent_channels, **shape)
        self.decoder = Decoder(block_out_channels, latent_channels, **shape)
        self.quant_conv = nn.Conv2d(latent_channels, latent_channels, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 3, padding=1)
        self.codebook = nn.Embedding(codebook_size, latent_channels)
        self.phi = nn.ModuleList(
            nn.Conv2d(latent_channels, latent_channels, 3, padding=1) for _ in range(num_phi)
        )

    @property
    def downscale(self) -> int:
        """Pixels per side of a token."""
        return int(2 ** (len(self.config.block_out_channels) - 1))

    def latent_size(self, scale: Scale) -> Scale:
        """Size of the latents of a token grid: the same."""
        return scale

    def codes(self, indices: Tensor) -> Tensor:
        """Codebook vectors `(batch, latent_channels, h, w)` of `indices` `(batch, h, w)`."""
        output: Tensor = self.codebook(indices).permute(0, 3, 1, 2)
        return output

    def add(self, latents: Tensor, codes: Tensor, scale_index: int, num_scales: int) -> Tensor:
        """`latents` with what `codes` `(batch, latent_channels, h, w)` of one scale add to them."""
        large = resized(codes, (latents.shape[-2], latents.shape[-1]), "bicubic")
        smooth = self.phi[phi_index(scale_index, num_scales, len(self.phi))](large)
        return latents + torch.lerp(large, smooth, PHI_SHARE)

    def next_input(self, latents: Tensor, scale: Scale) -> Tensor:
        """What the transformer sees before it predicts `scale`: `(batch, latent_channels, h, w)`.

        Each place is the mean of the latents that it covers.
        """
        return resized(latents, scale, "area")

    @moved_for_call
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures in [0, 1] `(batch, 3, height, width)` as latents, not yet quantized."""
        output: Tensor = self.quant_conv(self.encoder(pictures.to(self.dtype) * 2 - 1))
        return output

    @moved_for_call
    def decode(self, latents: Tensor) -> Tensor:
        """Latents `(batch, latent_channels, H, W)` as float32 pictures in [0, 1]."""
        return as_pictures(self.decoder(self.post_quant_conv(latents.to(self.dtype))))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Indices `(batch, h, w)` of the codes nearest to `(batch, latent_channels, h, w)`."""
        codebook = self.codebook.weight.float()
        # |v - c|^2 without |v|^2, which is the same for all codes.
        products = vectors.float().permute(0, 2, 3, 1) @ codebook.T
        return (codebook.square().sum(-1) - 2 * products).argmin(-1)

    def quantize(self, latents: Tensor, scales: Sequence[Scale]) -> Quantized:
        """Write `latents` as indices, coarse grids first, each coding what the others left over.

        Args:
            latents: of `encode`, `(batch, channels, H, W)`.
            scales: token grids; the last one has the size of the latents.
        """
        total = torch.zeros_like(latents)
        indices, inputs = [], []
        for k, scale in enumerate(scales):
            if k:
                inputs.append(self.next_input(total, scale))
            indices.append(self.nearest(resized(latents - total, scale, "area")))
            total = self.add(total, self.codes(indices[-1]), k, len(scales))
        return Quantized(indices, inputs, total)


def phi_index(scale_index: int, num_scales: int, num_phi: int) -> int:
    """Which smoothing convolution a scale has: that whose tick is nearest to its place in [0, 1].

    In float64, as the released models were trained: of ten scales two lie midway between two
    ticks, and rounding decides.
    """
    margin = 1 / 12 if num_phi == 4 else 1 / (2 * num_phi)
    ticks = np.linspace(margin, 1 - margin, num_phi)
    return int(np.argmin(np.abs(ticks - scale_index / max(num_scales - 1, 1))))
