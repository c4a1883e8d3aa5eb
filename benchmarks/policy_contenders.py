"""Ways to plan a chunk of robot actions: uncached, by BAC and its ablations, and in fewer steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers

from caches.bac import calibration as bac
from caches.bac.config import BACConfig
from caches.bac.recorder import SimilarityStatistics
from caches.enable import disable_cache, enable_cache
from caches.evaluation import Denoising

STEPS = 100
NUM_BUBBLING = 5
FULL = "uncached"
MAIN = "BAC, 10 updates"


@dataclass(frozen=True)
class Contender:
    """A way to plan.

    Attributes:
        name: what it is called in the tables.
        steps: denoising steps.
        scheduler: class of diffusers.
        config: the cache; None where there is none.
    """

    name: str
    steps: int = STEPS
    scheduler: str = "DDPMScheduler"
    config: BACConfig | None = None

    @contextmanager
    def on(self, pipe: Any) -> Iterator[dict[str, Any]]:
        """The pipeline made ready; yields arguments of its call."""
        own = pipe.scheduler
        pipe.scheduler = getattr(diffusers, self.scheduler).from_config(own.config)
        try:
            if self.config is not None:
                enable_cache(pipe, self.config)
            yield {"num_inference_steps": self.steps}
        finally:
            if self.config is not None:
                disable_cache(pipe)
            pipe.scheduler = own

    @property
    def mean_updates(self) -> float | None:
        """Steps at which a sub-block is computed, mean over all."""
        if self.config is None:
            return None
        counts = [len(item.updates) for item in self.config.schedules]
        return sum(counts) / len(counts)


def contenders(pipe: Any, statistics: SimilarityStatistics) -> list[Contender]:
    """All that are compared; the first is the reference."""
    made = [Contender(FULL)]
    for name, options in _schedules().items():
        schedules = bac.block_schedules(statistics, **{"num_bubbling": NUM_BUBBLING, **options})
        config = bac.config_of(denoising_of(pipe), statistics, schedules)
        made.append(Contender(name, config=config))
    return made + [Contender(f"DDIM, {n} steps", n, "DDIMScheduler") for n in (2, 5, 10, 15, 20)]


def _schedules() -> dict[str, dict[str, Any]]:
    """Options of `block_schedules`, by the name of the contender."""
    found: dict[str, dict[str, Any]] = {
        f"BAC, {n} updates": {"num_updates": n} for n in (10, 5, 7, 20)
    }
    for n in (10, 5):
        found |= {
            f"uniform schedule, {n} updates": {"num_updates": n, "policy": "uniform"},
            f"shared schedule, {n} updates": {"num_updates": n, "policy": "shared"},
            f"block-wise without bubbling, {n} updates": {"num_updates": n, "num_bubbling": 0},
        }
    last: dict[str, Any] = {"num_updates": 10, "always_update_last": True}
    found["BAC and the last step, 10 updates"] = last
    found["uniform schedule and the last step, 10 updates"] = {**last, "policy": "uniform"}
    return found


def denoising_of(pipe: Any, seed: int = 0) -> Denoising:
    """Uncached runs at full length."""
    return Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=16, seed=seed)
