"""Which process works on which prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """Prompts that are worked on at the same time.

    Attributes:
        prompts: indices: one for each process, whole; or one whose candidates all of them share.
        is_shared: which of the two.
    """

    prompts: tuple[int, ...]
    is_shared: bool = False

    def prompt_of(self, rank: int) -> int | None:
        """Index of the prompt that process `rank` works on; None where there is none left."""
        at = 0 if self.is_shared else rank
        return self.prompts[at] if at < len(self.prompts) else None


def divide(todo: Sequence[int], processes: int, *, can_share: bool) -> list[Round]:
    """Deal out whole prompts while there are enough for all; share the candidates of the rest.

    A whole prompt needs no exchange of scores, and no process idles while others have survivors.
    Results do not depend on the division, as each candidate has its own seed.
    """
    num_dealt = len(todo)
    if can_share and processes > 1:
        num_dealt -= num_dealt % processes
    starts = range(0, num_dealt, processes)
    dealt = [Round(tuple(todo[at : min(at + processes, num_dealt)])) for at in starts]
    return dealt + [Round((index,), is_shared=True) for index in todo[num_dealt:]]
