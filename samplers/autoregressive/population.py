"""The candidates of one prompt, scale by scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gensift.randomness import derived_seed, make_generators


@dataclass
class Population:
    """Who lives, in which place, and what rewards said of each one's ancestors.

    Every candidate starts in a place of its own, which has a seed. A copy moves into the place of
    somebody who was dropped, and goes on with a stream of its own.

    Attributes:
        prompt: the text.
        seeds: of all places.
        first_width: with how many candidates per finished one the first scale is drawn.
        places: of the living candidates, ascending.
        history: per scored scale one value for each living candidate, `(candidates,)`.
        originals: places whose candidate was never replaced by a copy.
    """

    prompt: str
    seeds: Sequence[int]
    first_width: int
    places: list[int] = field(default_factory=list)
    history: list[Tensor] = field(default_factory=list)
    originals: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.places = list(range(len(self.seeds)))
        self.originals = set(self.places)

    def size_at(self, width: int) -> int:
        """Candidates at a width."""
        return len(self.seeds) // self.first_width * width

    def generator(self, purpose: str) -> torch.Generator:
        """A stream for a choice among the candidates."""
        return make_generators([derived_seed(self.seeds, purpose)])[0]

    def choose(self, chosen: Sequence[int], scale: int) -> tuple[list[int], list[int | None]]:
        """Let the `chosen` candidates (positions, repeats allowed) be all that live on.

        Whoever is chosen stays in its place with its own stream; further copies take the places
        of dropped candidates, in ascending order.

        Returns:
            Per new candidate, ordered by place, its parent's position, and the seed of a new
            stream where it is a further copy.
        """
        parents = {self.places[at]: at for at in chosen}
        spare = (place for place in self.places if place not in parents)
        copies = sorted(chosen)
        for at in parents.values():
            copies.remove(at)
        moved = dict(zip(spare, copies, strict=False))
        by_place = sorted((parents | moved).items())
        self.places = [place for place, _ in by_place]
        rows = [at for _, at in by_place]
        self.history = [values[rows] for values in self.history]
        self.originals -= moved.keys()
        fresh = [
            derived_seed([self.seeds[place]], f"copy after scale {scale}")
            if place in moved
            else None
            for place in self.places
        ]
        return rows, fresh
