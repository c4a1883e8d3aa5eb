"""Tensors kept from step to step, each under the row of the pipeline that it belongs to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class _Place:
    """Where a row's tensor lies: a row of a tensor that several rows may share."""

    chunk: Tensor
    index: int


class RowStore:
    """One tensor per row and context.

    Rows are those of the pipeline's whole denoiser call, so that they keep their number when others
    are pruned. What came in as one batch goes out as the very same tensor, without a copy, as long
    as the same rows are asked for together.
    """

    def __init__(self, *, is_padded: bool = False) -> None:
        """Rows `(tokens, ...)` may differ in length where `is_padded`: zeros fill up."""
        self._is_padded = is_padded
        self._places: dict[Hashable, dict[int, _Place]] = {}
        # The latest batch of each context: mostly the very same rows are asked for again.
        self._latest: dict[Hashable, tuple[Sequence[int], Tensor]] = {}

    def put(self, context: Hashable, rows: Sequence[int], values: Tensor) -> None:
        """Keep `values` `(len(rows), ...)` as those of `rows`."""
        kept = self._places.setdefault(context, {})
        for index, row in enumerate(rows):
            kept[row] = _Place(values, index)
        self._latest[context] = rows, values

    def get(self, context: Hashable, rows: Sequence[int]) -> Tensor | None:
        """The tensors of `rows`, `(len(rows), ...)`; None unless all are there, in one shape."""
        latest = self._latest.get(context)
        if latest is not None and latest[0] == rows:
            return latest[1]
        kept = self._places.get(context, {})
        places = [kept[row] for row in rows if row in kept]
        if len(places) < len(rows) or not places:
            return None
        first = places[0].chunk
        is_one_chunk = all(place.chunk is first for place in places)
        if is_one_chunk:
            indices = [place.index for place in places]
            if indices == list(range(len(first))):
                return first
            return first.index_select(0, torch.tensor(indices, device=first.device))
        if any(self._layout(place.chunk) != self._layout(first) for place in places):
            return None
        found = [place.chunk[place.index] for place in places]
        return pad_sequence(found, batch_first=True) if self._is_padded else torch.stack(found)

    def select(self, sources: Mapping[int, int], num_candidates: int) -> None:
        """Let each candidate `row` go on with the tensors of the candidate `sources[row]`.

        Candidates that are not among `sources` are forgotten; each guidance group alike.
        """
        self._latest.clear()
        for context, kept in self._places.items():
            groups = {row // num_candidates for row in kept}
            moves = {
                group * num_candidates + row: group * num_candidates + source
                for group in groups
                for row, source in sources.items()
            }
            self._places[context] = {r: kept[s] for r, s in moves.items() if s in kept}

    def clear(self) -> None:
        """Forget everything."""
        self._places.clear()
        self._latest.clear()

    @property
    def num_bytes(self) -> int:
        """Memory held, bytes."""
        chunks = {
            id(place.chunk): place.chunk
            for kept in self._places.values()
            for place in kept.values()
        }
        return sum(chunk.numel() * chunk.element_size() for chunk in chunks.values())

    def _layout(self, chunk: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
        return chunk.shape[2 if self._is_padded else 1 :], chunk.dtype, chunk.device


def with_tokens(rows: Tensor, tokens: int) -> Tensor:
    """Padded rows `(rows, length, channels)` cut off or filled with zeros to so many tokens."""
    return rows if rows.shape[1] == tokens else pad(rows, (0, 0, 0, tokens - rows.shape[1]))
