"""First weights of flow models."""

from __future__ import annotations

from torch import nn


def initialise(transformer: nn.Module) -> None:
    """Small normal weights; what starts at zero (modulations, the final layer) is left so."""
    for name, parameter in transformer.named_parameters():
        if parameter.ndim >= 2 and bool(parameter.any()):
            nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
