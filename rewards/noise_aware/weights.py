"""What makes a reward network noise-aware: its weights as a function of the noise level.

Three ways to store them, all applied to a network that itself stays as it is:

* `SigmaAdapter` (default): one low-rank change per weight whose strength depends on sigma, so it
  interpolates to step counts and schedules that it was not trained on;
* `StepAdapters`: one low-rank change per weight and trained step (LoRA);
* `StepWeights`: all weights anew for each trained step, as in the TTSnap paper.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from gensift.errors import ConfigError

Storage = Literal["sigma-adapter", "lora", "full"]

Shapes = Mapping[str, torch.Size]
_MAX_LOG_SNR = 8.0
_FREQUENCIES = 8
_HIDDEN = 64


class NoiseAwareWeights(nn.Module, ABC):
    """Changes of a network's weights, as a function of sigma (flow scale, in [0, 1]).

    Attributes:
        storage: how they are stored.
        names: changed weights, by the key that they are stored under.
        sigmas: noise levels that were trained, falling.
    """

    storage: ClassVar[Storage]
    names: dict[str, str]

    def __init__(self, sigmas: Sequence[float]) -> None:
        """Raise ConfigError unless `sigmas` fall strictly within [0, 1]."""
        super().__init__()
        self.sigmas = tuple(sigmas)
        falling = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if not self.sigmas or not falling or not 0 <= self.sigmas[-1] <= self.sigmas[0] <= 1:
            raise ConfigError(f"sigmas are {self.sigmas}; give falling noise levels in [0, 1].")

    @abstractmethod
    def applied(self, base: Mapping[str, Tensor], sigma: float) -> dict[str, Tensor]:
        """The weights at `sigma` that differ from `base`, by name."""

    @abstractmethod
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the weights that change, by name."""

    def covers(self, sigma: float) -> bool:
        """Whether `sigma` lies within what was trained, or half a step beyond."""
        gaps = [a - b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False)]
        margin = max(gaps, default=0.02) / 2
        return self.sigmas[-1] - margin <= sigma <= self.sigmas[0] + margin

    def nearest(self, sigma: float) -> int:
        """Index of the trained noise level that is closest to `sigma`."""
        return min(range(len(self.sigmas)), key=lambda i: abs(self.sigmas[i] - sigma))


class SigmaAdapter(NoiseAwareWeights):
    """W + B diag(g(sigma)) A for matrices, b + D g(sigma) for vectors, with learned gates g.

    B and D start at zero, so that training starts from the original reward.
    """

    storage = "sigma-adapter"

    def __init__(self, shapes: Shapes, sigmas: Sequence[float], rank: int) -> None:
        """`shapes` are those of the weights to change, `rank` that of each change."""
        super().__init__(sigmas)
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU()
        )
        self.names = {_key(name): name for name in shapes}
        self.down, self.up, self.gates = nn.ParameterDict(), nn.ParameterDict(), nn.ModuleDict()
        for key, name in self.names.items():
            gate = nn.Linear(_HIDDEN, rank)
            nn.init.ones_(gate.bias)
            self.gates[key] = gate
            self.up[key] = torch.zeros(shapes[name][0], rank)
            if len(shapes[name]) == 2:
                self.down[key] = torch.randn(rank, shapes[name][1]) / math.sqrt(shapes[name][1])

    def applied(self, base: Mapping[str, Tensor], sigma: float) -> dict[str, Tensor]:
        """See `NoiseAwareWeights`."""
        hidden = self.embed(_embedding(sigma).to(next(self.parameters()).device))
        found = {}
        for key, name in self.names.items():
            gate = self.gates[key](hidden)
            inner = gate[:, None] * self.down[key] if key in self.down else gate
            found[name] = base[name] + (self.up[key] @ inner).to(base[name])
        return found

    def shapes(self) -> dict[str, torch.Size]:
        """See `NoiseAwareWeights`."""
        return _adapted_shapes(self.names, self.up, self.down)


class StepAdapters(NoiseAwareWeights):
    """W + B A for matrices and b + d for vectors, for each trained noise level apart."""

    storage = "lora"

    def __init__(self, shapes: Shapes, sigmas: Sequence[float], rank: int) -> None:
        """`shapes` are those of the weights to change, `rank` that of each change."""
        super().__init__(sigmas)
        self.names = {_key(name): name for name in shapes}
        self.steps = nn.ModuleList(_one_adapter(shapes, rank) for _ in self.sigmas)

    def applied(self, base: Mapping[str, Tensor], sigma: float) -> dict[str, Tensor]:
        """See `NoiseAwareWeights`; the nearest trained noise level answers for others."""
        step = self.steps[self.nearest(sigma)]
        found = {}
        for key, name in self.names.items():
            up, down = step["up"][key], step["down"]  # type: ignore[index]
            change = up @ down[key] if key in down else up[:, 0]
            found[name] = base[name] + change.to(base[name])
        return found

    def shapes(self) -> dict[str, torch.Size]:
        """See `NoiseAwareWeights`."""
        step = self.steps[0]
        return _adapted_shapes(self.names, step["up"], step["down"])  # type: ignore[index]


class StepWeights(NoiseAwareWeights):
    """All changed weights in full for each trained noise level (15 times the network, or so)."""

    storage = "full"

    def __init__(self, base: Mapping[str, Tensor], sigmas: Sequence[float]) -> None:
        """Every noise level starts as a copy of `base`."""
        super().__init__(sigmas)
        self.names = {_key(name): name for name in base}
        self.steps = nn.ModuleList(
            nn.ParameterDict({_key(name): value.detach().clone() for name, value in base.items()})
            for _ in self.sigmas
        )

    def applied(self, base: Mapping[str, Tensor], sigma: float) -> dict[str, Tensor]:
        """See `NoiseAwareWeights`; the nearest trained noise level answers for others."""
        step = self.steps[self.nearest(sigma)]
        return {name: step[key].to(base[name]) for key, name in self.names.items()}  # type: ignore[index]

    def shapes(self) -> dict[str, torch.Size]:
        """See `NoiseAwareWeights`."""
        step = self.steps[0]
        return {name: step[key].shape for key, name in self.names.items()}  # type: ignore[index]


def make_weights(
    storage: str, base: Mapping[str, Tensor], sigmas: Sequence[float], rank: int
) -> NoiseAwareWeights:
    """Fresh weights that change nothing yet.

    Args:
        storage: one of `Storage`.
        base: weights of the network that may change, by name.
        sigmas: noise levels to be trained, falling.
        rank: of the low-rank changes.

    Raises:
        ConfigError: an unknown storage.
    """
    shapes = {name: value.shape for name, value in base.items() if value.ndim in (1, 2)}
    if storage == "sigma-adapter":
        return SigmaAdapter(shapes, sigmas, rank)
    if storage == "lora":
        return StepAdapters(shapes, sigmas, rank)
    if storage == "full":
        return StepWeights(base, sigmas)
    raise ConfigError(f"storage is {storage!r}; allowed: {', '.join(get_args(Storage))}.")


def continue_from_cleaner(weights: NoiseAwareWeights, step: int) -> None:
    """Start the weights of one noise level where those of the next cleaner one ended."""
    steps = getattr(weights, "steps", None)
    if steps is not None and step + 1 < len(steps):
        steps[step].load_state_dict(steps[step + 1].state_dict())


def _one_adapter(shapes: Shapes, rank: int) -> nn.ModuleDict:
    up, down = nn.ParameterDict(), nn.ParameterDict()
    for name, shape in shapes.items():
        is_matrix = len(shape) == 2
        up[_key(name)] = torch.zeros(shape[0], rank if is_matrix else 1)
        if is_matrix:
            down[_key(name)] = torch.randn(rank, shape[1]) / math.sqrt(shape[1])
    return nn.ModuleDict({"up": up, "down": down})


def _adapted_shapes(
    names: Mapping[str, str], up: nn.ParameterDict, down: nn.ParameterDict
) -> dict[str, torch.Size]:
    return {
        name: torch.Size((up[key].shape[0], *(down[key].shape[1:] if key in down else ())))
        for key, name in names.items()
    }


def _key(name: str) -> str:
    # Names of parameters and modules may not hold dots.
    return name.replace(".", "/")


def _embedding(sigma: float) -> Tensor:
    """Sines and cosines `(16,)` of half the log of signal over noise, squashed to finite values."""
    share = min(max(sigma, 1e-6), 1 - 1e-6)
    log_ratio = math.log((1 - share) / share)
    place = max(-1.0, min(1.0, 2 * log_ratio / _MAX_LOG_SNR))
    angles = place * math.pi / 2 * (2.0 ** torch.arange(_FREQUENCIES).div(2))
    return torch.cat([angles.sin(), angles.cos()])
