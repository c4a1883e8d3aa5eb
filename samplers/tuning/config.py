"""Options of the tuner; imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gensift.config import check, option
from samplers.tuning.candidates import MOST_CHECKPOINTS


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How a schedule is looked for."""

    budget: float = option(
        help="most that the search for one prompt may cost, in the unit of the unit costs"
    )
    max_checkpoints: int = option(
        MOST_CHECKPOINTS, minimum=1, maximum=MOST_CHECKPOINTS, help="most checkpoints"
    )
    folds: int = option(5, minimum=2, help="parts that the prompts are split into")
    confidence: float = option(
        0.95, minimum=0.5, maximum=0.999, help="of the interval that must lie above no gain"
    )
    seed: int = option(0, minimum=0, help="of folds and draws")

    def __post_init__(self) -> None:
        is_amount = math.isfinite(self.budget) and self.budget > 0
        check(self, [] if is_amount else [f"`budget` is {self.budget}; give a positive amount"])
