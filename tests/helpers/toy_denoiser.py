"""A denoiser whose outputs, and whose parts, are known in closed form, in a loop of its own.

Numbers are small and whole, so that sums are exact whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from caches import blocks
from caches.blocks import BlockFacts, DenoiserBlocks, Unit
from gensift.denoising import families
from gensift.denoising.families import DenoiserFamily

NUM_BLOCKS = 2


class Doubling(nn.Module):
    """Twice the text."""

    def forward(self, text: Tensor) -> Tensor:
        return 2 * text


class ToyBlock(nn.Module):
    """Adds twice the text to the hidden states, by a gate that grows with time."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Doubling()

    def forward(self, hidden_states: Tensor, text: Tensor, gate: Tensor) -> Tensor:
        return hidden_states + gate * self.attn(text)


class ToyTransformer(nn.Module, CacheMixin):  # type: ignore[misc]
    """output = 3 * (5 * latents + NUM_BLOCKS * timestep * 2 * (text + timestep))."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ToyBlock() for _ in range(NUM_BLOCKS)])
        self.config: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, timestep: Tensor, text: Tensor) -> tuple[Tensor]:
        hidden = 5 * hidden_states
        gate = timestep.view(-1, *[1] * (hidden.ndim - 1))
        text = text.view(gate.shape) + gate
        for block in self.blocks:
            hidden = block(hidden, text, gate)
        return (3 * hidden,)


FAMILY = DenoiserFamily(
    name="toy",
    denoiser_class="ToyTransformer",
    rows=("hidden_states", "timestep", "text"),
    components=("transformer",),
)
BLOCK = BlockFacts(
    block_class="ToyBlock",
    units=(Unit("attn", "self-attention", "attn"),),
    encoder_argument=None,
)
ORDER = DenoiserBlocks(denoiser_class="ToyTransformer", stages=("blocks",), body=("blocks",))


def declare_toy(monkeypatch: Any) -> None:
    """Declare the toy for one test."""
    monkeypatch.setattr(families, "_families", {**families._families, "ToyTransformer": FAMILY})
    monkeypatch.setattr(blocks, "_blocks", {**blocks._blocks, "ToyBlock": BLOCK})
    monkeypatch.setattr(blocks, "_denoisers", {**blocks._denoisers, "ToyTransformer": ORDER})


def toy_pipeline() -> Any:
    """A pipeline in so far as caches look at one."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return SimpleNamespace(transformer=ToyTransformer(), scheduler=scheduler)


def full(latents: Tensor, time: float, text: Tensor) -> Tensor:
    """What the toy computes."""
    text = text.view(-1, *[1] * (latents.ndim - 1))
    return 3 * (5 * latents + NUM_BLOCKS * time * 2 * (text + time))


class Loop:
    """A denoising loop over the toy: at step `s` time is `s + 1`, and latents are `latents(s)`."""

    def __init__(self, pipe: Any, shape: Sequence[int], num_steps: int) -> None:
        self.pipe, self.shape, self.num_steps = pipe, tuple(shape), num_steps

    def latents(self, step: int) -> Tensor:
        """Whole numbers, different for every step and place."""
        size = int(torch.tensor(self.shape).prod())
        return (torch.arange(size) % 7 + 11.0 * step).view(self.shape)

    def time(self, step: int) -> float:
        """Of a step."""
        return step + 1.0

    def full(self, step: int, text: Tensor) -> Tensor:
        """What the toy computes at a step."""
        return full(self.latents(step), self.time(step), text)

    def run(self, texts: Sequence[Tensor], names: Sequence[str] = ()) -> list[list[Tensor]]:
        """The outputs of each step: one for each of `texts`, in the context of that name."""
        scheduler, outputs = self.pipe.scheduler, []
        scheduler.set_timesteps(self.num_steps)
        for step, timestep in enumerate(scheduler.timesteps):
            found = []
            for index, text in enumerate(texts):
                with self._context(names, index):
                    time = torch.full((self.shape[0],), self.time(step))
                    found.append(self.pipe.transformer(self.latents(step), time, text)[0])
            outputs.append(found)
            scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
        return outputs

    @contextmanager
    def _context(self, names: Sequence[str], index: int) -> Iterator[None]:
        named = self.pipe.transformer.cache_context(names[index]) if names else nullcontext()
        with named:
            yield
