"""Drawing tokens. Each row has a stream of random numbers of its own: rows are independent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gensift.errors import ConfigError
from gensift.randomness import SEED_BYTES, make_generators

Generators = torch.Generator | Sequence[torch.Generator] | None


class RowStreams:
    """The random numbers of each row.

    Attributes:
        generators: one per row.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)

    @classmethod
    def of(cls, given: Generators, rows: int) -> RowStreams:
        """Streams for `rows` rows.

        Args:
            given: one generator per row; or one for all, from which each row's seed is drawn (a
                single row uses it as it is); or None for fresh randomness.
            rows: how many.

        Raises:
            ConfigError: there are more or fewer generators than rows.
        """
        if isinstance(given, torch.Generator) and rows == 1:
            return cls([given])
        if given is None or isinstance(given, torch.Generator):
            device = "cpu" if given is None else given.device
            seeds = torch.randint(2 ** (8 * SEED_BYTES), (rows,), generator=given, device=device)
            return cls(make_generators(seeds.tolist()))
        if len(given) != rows:
            raise ConfigError(
                f"{len(given)} generators were given for {rows} pictures; give one for each, or "
                "one for all."
            )
        return cls(given)

    def uniform(self, shape: Sequence[int], part: slice, device: torch.device) -> Tensor:
        """Float32 numbers in [0, 1), `(rows of part, *shape)`."""
        drawn = [
            torch.rand(*shape, generator=generator, device=generator.device)
            for generator in self.generators[part]
        ]
        return torch.stack(drawn).to(device)

    def gumbel(self, shape: Sequence[int], part: slice, device: torch.device) -> Tensor:
        """Float32 noise of the standard Gumbel distribution, `(rows of part, *shape)`."""
        drawn = [
            torch.empty(*shape, device=generator.device).exponential_(generator=generator)
            for generator in self.generators[part]
        ]
        return -torch.stack(drawn).to(device).log()

    def gather(self, rows: Sequence[int], fresh: Sequence[int | None]) -> RowStreams:
        """Row `i` goes on with the stream of row `rows[i]`, or with a new one seeded `fresh[i]`."""
        return RowStreams(
            [
                self.generators[row] if seed is None else make_generators([seed])[0]
                for row, seed in zip(rows, fresh, strict=True)
            ]
        )


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """`logits` `(..., entries)` without unlikely entries: those get -inf. 0 switches a rule off.

    First all but the `top_k` highest go, then the least likely ones whose probabilities sum to at
    most 1 - `top_p`; the likeliest always stays.
    """
    entries = logits.shape[-1]
    if 0 < top_k < entries:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p > 0:
        ascending, order = logits.sort(dim=-1)
        below = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        below[..., -1] = False
        logits = logits.masked_fill(below.scatter(-1, order, below), -torch.inf)
    return logits


def draw_entries(logits: Tensor, uniform: Tensor) -> Tensor:
    """Indices `(rows, tokens)` drawn from `softmax(logits)`, one uniform number each."""
    bounds = logits.softmax(-1).cumsum(-1)
    total = bounds[..., -1:]
    # Rounding must not push a number beyond the last entry that has a share.
    points = torch.minimum(uniform[..., None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(bounds, points, right=True)[..., 0]


def draw_bits(logits: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Bits `(..., bits)` drawn from pairs of logits for 0 and 1, `(..., 2 * bits)`.

    The less likely value is out of question where its probability is at most 1 - `top_p`.
    """
    zero, one = torch.unflatten(logits, -1, (-1, 2)).unbind(-1)
    chance = (one - zero).sigmoid()
    if top_p > 0:
        rare = 1 - top_p
        chance = torch.where(chance <= rare, 0.0, torch.where(1 - chance <= rare, 1.0, chance))
    drawn: Tensor = uniform < chance
    return drawn
