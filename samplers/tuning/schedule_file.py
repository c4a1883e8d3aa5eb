"""A recommendation as a config file of `generate`."""

from __future__ import annotations

from collections.abc import Sequence

from gensift.protocols import JsonObject
from samplers.diffusion.schedule import Checkpoint


def generate_config(checkpoints: Sequence[Checkpoint], num_steps: int) -> JsonObject:
    """What `generate --config` takes: TTSnap with this schedule, or best-of-n without any."""
    if not checkpoints:
        return {"sampler": "best-of-n"}
    fractions = [fraction_of(point.step_index, num_steps) for point in checkpoints]
    keep = [point.keep for point in checkpoints]
    return {"sampler": "ttsnap", "options": {"checkpoints": fractions, "keep": keep}}


def fraction_of(step_index: int, num_steps: int) -> float:
    """The shortest decimal in (0, 1) that names this step of a loop: round(f * steps) is the index.

    The share itself for all but step 0, which 0 would name best, were it allowed.
    """
    share = step_index / num_steps if step_index else 0.25 / num_steps
    shorter = (round(share, digits) for digits in range(2, 17))
    return next((f for f in shorter if 0 < f < 1 and round(f * num_steps) == step_index), share)
