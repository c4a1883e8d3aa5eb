"""Scales and shifts that bring observations and actions to [-1, 1], kept with a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

RANGE_EPS = 1e-4


class LinearNormalizer(ModelMixin, ConfigMixin):
    """`x * scale + offset` per number of an observation and of an action, and the way back.

    Its numbers stay float32 whatever the precision of the policy.

    Args:
        obs_dim: numbers per observation.
        action_dim: numbers per action.
    """

    _keep_in_fp32_modules: ClassVar[list[str]] = ["obs", "action"]

    @register_to_config
    def __init__(self, *, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.obs, self.action = Scale(obs_dim), Scale(action_dim)


class Scale(nn.Module):
    """Scale and offset per number, float32 whatever the rest of a pipeline is turned to."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("offset", torch.zeros(dim))
        self.scale: Tensor
        self.offset: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scale:
        # Of what is asked for, only the device is taken over: half precision would move robots.
        moved: Scale = super()._apply(  # type: ignore[no-untyped-call]
            lambda tensor: tensor.to(fn(tensor[:0]).device), recurse
        )
        return moved

    def normalize(self, x: Tensor) -> Tensor:
        """float32 `(..., dim)`, in [-1, 1] within the limits seen."""
        return x.float() * self.scale + self.offset

    def unnormalize(self, x: Tensor) -> Tensor:
        """The way back, float32 `(..., dim)`."""
        return (x.float() - self.offset) / self.scale

    def fit(self, values: Tensor) -> None:
        """Take over the limits of `values` `(count, dim)`; what hardly varies is only centred.

        Source: mode "limits" of Diffusion Policy's normaliser, with its threshold of 1e-4.
        """
        low, high = values.double().amin(0), values.double().amax(0)
        span = high - low
        is_flat = span < RANGE_EPS
        scale = 2 / torch.where(is_flat, 2.0, span)
        self.scale.copy_(scale)
        self.offset.copy_(torch.where(is_flat, -low, -1 - scale * low))
