"""Which schedules the tuner tries: a coarse grid first, then the neighbours of what did well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise, product

import numpy as np

from samplers.diffusion.schedule import Checkpoint

Schedule = tuple[Checkpoint, ...]

KEEP = (0.1, 0.15, 0.25, 0.35, 0.5, 0.65, 0.8)
"""Keep ratios on the grid."""

MOST_CHECKPOINTS = 3

# How many steps, and which ratios, the coarse grid has for one, two and three checkpoints. It sets
# the time that tuning takes; finer places are reached by moving to neighbours.
_COARSE_STEPS = {1: 24, 2: 7, 3: 7}
_COARSE_KEEP = {1: KEEP, 2: (0.25, 0.5, 0.65), 3: (0.35, 0.65)}


@dataclass(frozen=True)
class Grid:
    """All schedules with at most `most_checkpoints`, at any step but the last.

    Attributes:
        num_steps: of the denoising loop; at least 2.
        most_checkpoints: 1 to 3.
    """

    num_steps: int
    most_checkpoints: int = MOST_CHECKPOINTS

    def coarse(self) -> Iterator[Schedule]:
        """Schedules spread over the whole grid, fewest checkpoints first."""
        for count in range(1, self.most_checkpoints + 1):
            spread = np.linspace(0, self.num_steps - 2, _COARSE_STEPS[count])
            steps = [int(step) for step in np.unique(spread.round())]
            for places in combinations(steps, count):
                for keep in product(_COARSE_KEEP[count], repeat=count):
                    yield tuple(map(Checkpoint, places, keep))

    def neighbours(self, schedule: Schedule) -> Iterator[Schedule]:
        """Schedules that differ by one move of one checkpoint: earlier, later, gentler, harsher."""
        far = max(2, self.num_steps // 20)
        for place, point in enumerate(schedule):
            steps = [point.step_index + move for move in (-far, -1, 1, far)]
            ratio = KEEP.index(point.keep)
            moved = [Checkpoint(step, point.keep) for step in steps]
            moved += [
                Checkpoint(point.step_index, KEEP[r])
                for r in (ratio - 1, ratio + 1)
                if 0 <= r < len(KEEP)
            ]
            for other in moved:
                found = (*schedule[:place], other, *schedule[place + 1 :])
                if self._is_valid(found):
                    yield found

    def _is_valid(self, schedule: Schedule) -> bool:
        steps = [point.step_index for point in schedule]
        is_ascending = all(a < b for a, b in pairwise(steps))
        return is_ascending and steps[0] >= 0 and steps[-1] < self.num_steps - 1
