"""Prefix and dual caches: a full pass when a block begins, then the block alone."""

from __future__ import annotations

import torch
from torch import Tensor

from gensift.pipelines.llada.transformer import positions_in
from samplers.text.attention import AttentionRule
from samplers.text.kv.protocol import LayeredModel, Request, Work, take
from samplers.text.kv.store import PositionStore, run_layers
from samplers.text.state import Columns


class BlockCache:
    """Keeps keys and values of what lies before the block and, `is_dual`, of what lies after it.

    With an attention rule that looks at nothing behind the window, what is committed before it is
    computed once and stays exact; otherwise it is as old as the block. Every row begins its blocks
    in its own time.

    Source: Fast-dLLM (arXiv 2505.22618), prefix cache and dual cache. Keys are kept turned by
    position, which is the same as turning them later: positions do not move.

    Args:
        model: whose layers run.
        attention: who may look at whom.
        is_dual: whether to keep what lies after the block, too.
        lead: 1 for models whose logits are those of the next token, read one position before it.
    """

    def __init__(
        self, model: LayeredModel, attention: AttentionRule, *, is_dual: bool, lead: int = 0
    ) -> None:
        self._model = model
        self._attention = attention
        self._is_dual = is_dual
        self._lead = lead
        self._store: PositionStore | None = None
        self.work = Work()

    def logits(self, request: Request) -> Tensor:
        """Logits `(rows, columns, vocab)`; rows that open a block run apart from the others."""
        state = request.state
        if self._store is None:
            self._store = PositionStore(state.tokens.shape[1])
        begin, end = self._range(request)
        parts = []
        groups = [request.is_opened.nonzero()[:, 0], (~request.is_opened).nonzero()[:, 0]]
        groups = [rows for rows in groups if len(rows)]
        for rows in groups:
            computed = Columns.span(begin[rows], end[rows])
            hidden = self._run(self._store, request, rows, computed)
            wanted = request.columns.index[rows] - begin[rows][:, None]
            parts.append(take(hidden, wanted))
        order = torch.cat(groups).argsort()
        return self._model.head(torch.cat(parts)[order])

    def _range(self, request: Request) -> tuple[Tensor, Tensor]:
        """First and one past the last position in the sequence that each row computes."""
        state = request.state
        length = state.tokens.shape[1]
        first, end = (state.prompt_length + edge for edge in (state.first, state.end))
        whole = torch.full_like(first, length)
        sees_behind = not self._attention.is_local
        if not sees_behind:
            first = self._attention.start(state, state.first)
        previous = self._attention.start(state, state.previous)
        # Nothing is kept of a row before its first block.
        is_new = state.previous == state.first
        opened_from = previous.masked_fill(is_new, 0)
        begin = torch.where(request.is_opened, opened_from, first) - self._lead
        end_opened = whole if sees_behind else end
        end_later = end if self._is_dual or not sees_behind else whole
        return begin.clamp(min=0), torch.where(request.is_opened, end_opened, end_later)

    def _run(
        self, store: PositionStore, request: Request, rows: Tensor, computed: Columns
    ) -> Tensor:
        state = request.state.select(rows)
        index = computed.index
        self.work.rows += len(rows)
        self.work.calls += 1
        self.work.computed += int(computed.is_open.sum())
        self.work.reused += state.tokens.numel() - int(computed.is_open.sum())
        return run_layers(
            self._model,
            store,
            rows,
            state.tokens.gather(1, index),
            positions_in(state.is_real).gather(1, index),
            index,
            self._attention.mask(state, index),
        )

    def select(self, rows: Tensor) -> None:
        """Keep some rows only, int64 `(kept,)`."""
        if self._store is not None:
            self._store.select(rows)
