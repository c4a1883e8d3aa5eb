"""Decoding latents outside the pipeline, exactly as the pipeline would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gensift.denoising.bound import BoundPipeline
from gensift.denoising.modules import execution_device
from gensift.errors import ConfigError, UnsupportedPipelineError


class Previewer:
    """Turns latents, usually x0 estimates, into pictures.

    With the pipeline's own VAE the result equals the pipeline's output to 1e-5.

    Attributes:
        is_tiny: whether a small decoder stands in for the VAE.
    """

    def __init__(
        self,
        bound: BoundPipeline,
        height: int,
        width: int,
        *,
        decoder: Any = None,
        max_images: int | None = None,
    ) -> None:
        """Choose the recipe of the pipeline's denoiser family.

        Args:
            bound: a resolved pipeline that has a `vae`.
            height: picture height in pixels, as in the pipeline call.
            width: picture width in pixels.
            decoder: a small stand-in for the VAE such as `AutoencoderTiny`; image families only.
            max_images: pictures decoded at a time; None decodes all at once.

        Raises:
            UnsupportedPipelineError: no recipe for this family, or none that takes a decoder.
            ConfigError: `max_images` is below 1.
        """
        family = bound.family
        if family.preview not in _RECIPES:
            raise UnsupportedPipelineError(
                f"Family {family.name!r} names the preview recipe {family.preview!r}; known are "
                f"{', '.join(sorted(_RECIPES))}. Declare one of those."
            )
        recipe = _RECIPES[family.preview]
        if decoder is not None and not recipe.takes_decoder:
            raise UnsupportedPipelineError(
                f"Previews of family {family.name!r} need its own VAE; leave `decoder` out."
            )
        if max_images is not None and max_images < 1:
            raise ConfigError(f"max_images is {max_images}; give at least 1, or None for all.")
        self._decode = recipe.decode
        self._vae = bound.pipe.vae if decoder is None else decoder
        self.is_tiny = decoder is not None
        self._height, self._width = height, width
        self._vae_scale_factor = int(getattr(bound.pipe, "vae_scale_factor", 1))
        self._max_images = max_images

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures of latents as they stand in the denoising loop (packed where the family packs).

        Args:
            latents: `(batch, ...)`, of any float dtype, on any device.

        Returns:
            float32 `(batch, 3, height, width)` in [0, 1], on the VAE's device; of a video its
            middle frame.
        """
        size = self._max_images or len(latents)
        with _safe_precision(self._vae) as dtype:
            latents = latents.to(execution_device(self._vae), dtype)
            parts = [latents[start : start + size] for start in range(0, len(latents), size)]
            images = [self._decode(self, part) for part in parts]
        return (torch.cat(images).float() / 2 + 0.5).clamp(0, 1)

    def _standard(self, latents: torch.Tensor) -> torch.Tensor:
        config = self._vae.config
        if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
            mean, std = _per_channel(config, latents)
            return self._run_vae(latents * std / config.scaling_factor + mean)
        shift = getattr(config, "shift_factor", None) or 0.0
        return self._run_vae(latents / config.scaling_factor + shift)

    def _packed(self, latents: torch.Tensor) -> torch.Tensor:
        return self._standard(self._unpack(latents))

    def _packed_normalized(self, latents: torch.Tensor) -> torch.Tensor:
        return self._denormalized(self._unpack(latents).unsqueeze(2))[:, :, 0]

    def _video_normalized(self, latents: torch.Tensor) -> torch.Tensor:
        frames = self._denormalized(latents)
        return frames[:, :, frames.shape[2] // 2]

    def _denormalized(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = _per_channel(self._vae.config, latents)
        return self._run_vae(latents * std + mean)

    def _run_vae(self, latents: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self._vae.decode(latents, return_dict=False)[0]
        return image

    def _unpack(self, latents: torch.Tensor) -> torch.Tensor:
        # (batch, h/2 * w/2, 4 channels) -> (batch, channels, h, w): each token is a 2 x 2 patch.
        rows = self._height // (2 * self._vae_scale_factor)
        columns = self._width // (2 * self._vae_scale_factor)
        batch, tokens, packed_channels = latents.shape
        if tokens != rows * columns:
            raise ConfigError(
                f"Latents have {tokens} tokens, but {self._height} x {self._width} pixels need "
                f"{rows * columns}; give the height and width of the pipeline call."
            )
        channels = packed_channels // 4
        patches = latents.view(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(batch, channels, 2 * rows, 2 * columns)


@dataclass(frozen=True)
class _Recipe:
    decode: Callable[[Previewer, torch.Tensor], torch.Tensor]
    takes_decoder: bool


_RECIPES = {
    "standard": _Recipe(Previewer._standard, takes_decoder=True),
    "packed": _Recipe(Previewer._packed, takes_decoder=True),
    "packed-normalized": _Recipe(Previewer._packed_normalized, takes_decoder=False),
    "video-normalized": _Recipe(Previewer._video_normalized, takes_decoder=False),
}


def _per_channel(config: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (1, -1) + (1,) * (latents.ndim - 2)
    mean = torch.tensor(config.latents_mean).to(latents.device, latents.dtype).view(shape)
    std = torch.tensor(config.latents_std).to(latents.device, latents.dtype).view(shape)
    return mean, std


@contextmanager
def _safe_precision(vae: Any) -> Iterator[torch.dtype]:
    """Run a VAE that overflows in float16 in float32; yields the dtype its input must have."""
    must_upcast = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if not must_upcast:
        yield vae.dtype
        return
    vae.to(dtype=torch.float32)
    try:
        yield torch.float32
    finally:
        vae.to(dtype=torch.float16)
