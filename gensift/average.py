"""Averages of weights over the steps of a training; they are what gets published."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class Average:
    """Exponential moving average of parameters, with a warm-up of the decay.

    `decay` is reached after about `10 / (1 - decay)` steps.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.values = {
            f"{name}.{key}": value.detach().clone()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module], step: int) -> None:
        """Move the average towards the present parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, module in modules.items():
            for key, value in module.state_dict().items():
                mean = self.values[f"{name}.{key}"]
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def copy_to(self, modules: Mapping[str, nn.Module]) -> None:
        """Put the averaged parameters into `modules`."""
        for name, module in modules.items():
            own = {key: self.values[f"{name}.{key}"] for key in module.state_dict()}
            module.load_state_dict(own)
