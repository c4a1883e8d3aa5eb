"""Numbers of rows: over all processes, within one pipeline call, and within a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class RowNumbers:
    """Numbers candidates of all prompts over all processes, prompt after prompt.

    A pipeline call of one process has just its own candidates, in "places" of its own numbering.

    Attributes:
        num_prompts: prompts of the call.
        num_candidates: per prompt, over all processes.
        own: candidates of each prompt that this process draws, ascending.
    """

    def __init__(self, num_prompts: int, num_candidates: int, own: Sequence[int]) -> None:
        self.num_prompts = num_prompts
        self.num_candidates = num_candidates
        self.own = tuple(own)
        rows = [self.row(i, candidate) for i in range(num_prompts) for candidate in self.own]
        self._rows = rows
        self._place = {row: place for place, row in enumerate(rows)}

    def row(self, prompt_index: int, candidate: int) -> int:
        """The row of a candidate."""
        return prompt_index * self.num_candidates + candidate

    def rows_at(self, places: Iterable[int]) -> list[int]:
        """The rows in these places of this process's pipeline call."""
        return [self._rows[place] for place in places]

    def places_of(self, rows: Iterable[int]) -> list[int]:
        """Where in this process's pipeline call those of `rows` are that it draws, in order."""
        return [self._place[row] for row in rows if row in self._place]

    def prompt_of(self, row: int) -> int:
        """Index of the prompt of a row."""
        return row // self.num_candidates

    def candidates_of(self, rows: Iterable[int], prompt_index: int) -> list[int]:
        """Those of `rows` that belong to a prompt, as candidates of it, in the given order."""
        return [row % self.num_candidates for row in rows if self.prompt_of(row) == prompt_index]

    def everyone(self) -> list[int]:
        """All rows."""
        return list(range(self.num_prompts * self.num_candidates))
