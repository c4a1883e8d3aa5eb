"""Options of the training of a noise-aware reward; imports nothing heavy, as the CLI reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gensift.config import check, option

Storage = Literal["sigma-adapter", "lora", "full"]


@dataclass(frozen=True, kw_only=True)
class NoiseAwareTraining:
    """Options of the training of a noise-aware reward."""

    storage: Storage = option(
        "sigma-adapter",
        choices=("sigma-adapter", "lora", "full"),
        help="one adapter conditioned on sigma, one LoRA per step, or all weights per step",
    )
    rank: int = option(16, minimum=1, help="rank of the adapters")
    since: float = option(
        0.0,
        minimum=0,
        maximum=0.95,
        help="share of the loop left out at its start, where an estimate shows nothing yet",
    )
    until: float = option(
        0.75,
        minimum=0.05,
        maximum=1,
        help="share of the loop that is trained, counted from its start",
    )
    steps_per_phase: int = option(
        400, minimum=1, help="optimiser steps per noise level (400 in the published code)"
    )
    joint_steps: int = option(
        0, minimum=0, help="optimiser steps over all noise levels after the curriculum"
    )
    batch_prompts: int = option(
        8, minimum=1, help="prompts per optimiser step, each with all its recorded images"
    )
    learning_rate: float | None = option(
        None, minimum=0, help="by default 2e-3 for adapters and 3e-6 for full weights"
    )
    within_prompt: float = option(
        1.0, minimum=0, help="weight of the order within a prompt in the loss; 0 as published"
    )
    across_prompts: float = option(
        0.0,
        minimum=0,
        help="weight of how finished pictures score against the batch's other prompts; of rewards "
        "that compare features",
    )
    held_out: float = option(
        0.1, minimum=0, maximum=0.9, help="share of the recorded prompts kept for the report"
    )
    seed: int = option(0, minimum=0, help="order of the batches and first values of adapters")
    save_every: int = option(100, minimum=1, help="optimiser steps between checkpoints")

    def __post_init__(self) -> None:
        check(self, self._problems())

    def _problems(self) -> Iterator[str]:
        if self.since >= self.until:
            yield f"`since` is {self.since} and `until` {self.until}; `since` must be the smaller"
