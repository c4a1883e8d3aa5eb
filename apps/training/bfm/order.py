"""Which rows a step sees: each once per pass over the data, in an order drawn anew for each."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gensift.randomness import derived_seed


class RowOrder:
    """Rows per step; they depend on the step alone, so a resumed run sees the same."""

    def __init__(self, rows: int, batch_size: int, seed: int, purpose: str) -> None:
        """`batch_size` rows per step of `rows`; `purpose` sets streams of one seed apart."""
        self.rows, self.batch_size = rows, batch_size
        self._seed, self._purpose = seed, purpose
        # A batch may end a pass and begin the next one.
        self._pass = lru_cache(maxsize=2)(self._shuffled)

    def at(self, step: int) -> Tensor:
        """Rows of the batch of a step, int64 `(batch_size,)`."""
        places = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return torch.cat(
            [
                self._pass(number)[places[places // self.rows == number] % self.rows]
                for number in range(int(places[0]) // self.rows, int(places[-1]) // self.rows + 1)
            ]
        )

    def _shuffled(self, number: int) -> Tensor:
        seed = derived_seed([self._seed, number], f"order of {self._purpose}")
        return torch.randperm(self.rows, generator=torch.Generator().manual_seed(seed))
