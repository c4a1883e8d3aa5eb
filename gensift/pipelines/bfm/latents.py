"""From pictures to latents and back, and the noise that a run starts from."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from gensift.errors import ConfigError
from gensift.pipelines.next_scale.pipeline import convert_pictures


def first_latents(
    shape: tuple[int, ...], generator: Any, given: Tensor | None, device: torch.device
) -> Tensor:
    """Standard noise of `shape` `(rows, ...)`, or what was given in its place.

    float32 whatever the weights are: a rounded state would round the trajectory.

    Raises:
        ConfigError: there is not one generator for each row, or `given` has another shape.
    """
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise ConfigError(
            f"`generator` has {len(generator)} entries for {shape[0]} pictures; give one for each, "
            "or one for all."
        )
    if given is None:
        result: Tensor = randn_tensor(
            shape, generator=generator, device=device, dtype=torch.float32
        )
        return result
    if tuple(given.shape) != shape:
        raise ConfigError(f"`latents` are {tuple(given.shape)}; this call needs {shape}.")
    return given.to(device, torch.float32)


def decode_pictures(vae: Any, latents: Tensor, output_type: str) -> Any:
    """Pictures of latents as `output_type` says, or the latents themselves for "latent".

    `latents`: float `(rows, channels, height, width)`, normalised.
    """
    if output_type == "latent":
        return latents
    scaled = latents / vae.config.scaling_factor + _shift(vae)
    decoded = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    return convert_pictures((decoded.float() / 2 + 0.5).clamp(0, 1), output_type)


def encode_pictures(vae: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of latents, normalised as the transformer takes them.

    `pictures` float `(rows, 3, height, width)` in [0, 1]; both results are float32.
    """
    posterior = vae.encode((2 * pictures - 1).to(vae.device, vae.dtype)).latent_dist
    scale = vae.config.scaling_factor
    return (posterior.mean.float() - _shift(vae)) * scale, posterior.std.float() * scale


def vae_factor(vae: Any) -> int:
    """Pixels per latent, along a side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
