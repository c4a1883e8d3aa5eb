"""Elastic-Cache: recompute the deeper layers when attention has drifted, and only then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from gensift.pipelines.attention import attend
from gensift.pipelines.llada.transformer import positions_in
from samplers.text.attention import padding_mask
from samplers.text.config import ElasticConfig
from samplers.text.kv.protocol import LayeredModel, Request, Work, take
from samplers.text.kv.store import PositionStore
from samplers.text.state import Columns


@dataclass
class _Group:
    """Rows that are computed at the same positions, or as many.

    Attributes:
        rows: int64 `(n,)`.
        columns: the positions that are computed.
        hidden: `(n, width, model width)`, what goes into the next layer.
    """

    rows: Tensor
    columns: Columns
    hidden: Tensor

    def select(self, keep: Tensor) -> _Group:
        """The same for some of its rows."""
        columns = Columns(self.columns.index[keep], self.columns.is_open[keep])
        return _Group(self.rows[keep], columns, self.hidden[keep])

    def joined(self, other: _Group | None) -> _Group:
        """Both, where all positions are computed."""
        if other is None:
            return self
        index, is_open = (
            torch.cat([getattr(group.columns, name) for group in (self, other)])
            for name in ("index", "is_open")
        )
        rows = torch.cat([self.rows, other.rows])
        return _Group(rows, Columns(index, is_open), torch.cat([self.hidden, other.hidden]))


class ElasticCache:
    """Keeps inputs, queries, keys and values of every layer and recomputes from a drift downwards.

    A step computes the window, what was committed since the last step, and the tokens that are
    watched. In each layer the attention of the watched tokens is compared with what it was; where
    it differs, all deeper layers of that row are recomputed for all positions in the same pass. A
    row's drift is its own affair: it does not depend on the rest of the batch.

    Source: Elastic-Cache (arXiv 2510.14973), algorithm 1.

    Args:
        model: whose layers run.
        config: the options.
        lead: 1 for models whose logits are those of the next token, read one position before it.
    """

    def __init__(self, model: LayeredModel, config: ElasticConfig, lead: int = 0) -> None:
        self._model = model
        self._layers = list(model.layers)
        self._config = config
        self._lead = lead
        self._store: PositionStore | None = None
        self._tracked: dict[int, Tensor] = {}
        self._age = 0
        self.work = Work()

    def logits(self, request: Request) -> Tensor:
        """Logits at the columns asked for, `(rows, columns, vocab)`."""
        state = request.state
        if self._store is None:
            self._store = PositionStore(state.tokens.shape[1])
        before = self.work.computed
        partial, whole = self._begin(request)
        for number in range(len(self._layers)):
            drifts = self._run_partial(self._store, number, partial, request)
            self._run(self._store, number, whole, request)
            is_last = number + 1 == len(self._layers)
            if partial is not None and drifts is not None and not is_last and bool(drifts.any()):
                moved = self._recompute(self._store, number + 1, partial.select(drifts))
                whole = moved.joined(whole)
                partial = partial.select(~drifts) if not bool(drifts.all()) else None
        for group in (partial, whole):
            if group is not None:
                self._store.write("output", 0, group.rows, group.columns.index, group.hidden)
        self._age += 1
        self.work.rows += len(state)
        self.work.calls += 1
        self.work.reused += state.tokens.numel() - (self.work.computed - before)
        everyone = torch.arange(len(state), device=state.tokens.device)
        outputs = self._store.read("output", 0, everyone)
        return self._model.head(take(outputs, request.columns.index))

    def select(self, rows: Tensor) -> None:
        """Keep some rows only, int64 `(kept,)`."""
        if self._store is not None:
            self._store.select(rows)
            self._tracked = {number: ids[rows] for number, ids in self._tracked.items()}

    def _begin(self, request: Request) -> tuple[_Group | None, _Group | None]:
        """All rows as one group: in part, or in full when a full pass is due."""
        state, period = request.state, self._config.refresh_every
        rows = torch.arange(len(state), device=state.tokens.device)
        if self._age == 0 or (period is not None and self._age % period == 0):
            columns = Columns.where(torch.ones_like(state.is_real))
            return None, _Group(rows, columns, self._model.embed(state.tokens))
        wanted = state.changed.clone()
        for ids in (request.columns.index, request.columns.index + self._lead):
            wanted.scatter_(1, ids, True)
        for ids in self._tracked.values():
            wanted.scatter_(1, ids, True)
        if self._config.all_masks:
            wanted[:, state.prompt_length :] |= state.is_masked
        columns = Columns.where(wanted)
        tokens = state.tokens.gather(1, columns.index)
        return _Group(rows, columns, self._model.embed(tokens)), None

    def _run_partial(
        self, store: PositionStore, number: int, group: _Group | None, request: Request
    ) -> Tensor | None:
        """Run a layer and return which rows of the group drift in it, bool `(n,)`."""
        if group is None:
            return None
        watched = self._tracked[number][group.rows]
        before = self._weights(store, number, group.rows, watched, request)
        self._run(store, number, group, request)
        now = self._weights(store, number, group.rows, watched, request)
        return self._similarity(before, now, request.state.is_real[group.rows]) < self._config.gamma

    def _similarity(self, before: Tensor, now: Tensor, is_real: Tensor) -> Tensor:
        """Mean cosine of attention, float32 `(n,)`; padding, which nobody looks at, has no part."""
        if self._config.drift_axis == "keys":
            return cosine_similarity(before, now, dim=-1).flatten(1).mean(1)
        by_key = cosine_similarity(before, now, dim=1).mean(1)
        mean: Tensor = (by_key * is_real).sum(1) / is_real.sum(1)
        return mean

    def _run(
        self, store: PositionStore, number: int, group: _Group | None, request: Request
    ) -> None:
        """Run a layer on a group, keep what it makes, and choose whom to watch next."""
        if group is None:
            return
        layer, rows, index = self._layers[number], group.rows, group.columns.index
        self.work.computed += float(group.columns.is_open.sum()) / len(self._layers)
        positions = positions_in(request.state.is_real[rows]).gather(1, index)
        heads = layer.project(group.hidden, self._model.rotary(positions))
        store.write("input", number, rows, index, group.hidden)
        for name, values in zip(("query", "key", "value"), heads, strict=True):
            store.write(name, number, rows, index, values)
        keys, values = (store.read(name, number, rows) for name in ("key", "value"))
        mask = padding_mask(request.state.is_real[rows])
        group.hidden = layer.finish(group.hidden, attend(heads[0], keys, values, mask))
        self._watch(store, number, rows, request)

    def _recompute(self, store: PositionStore, number: int, group: _Group) -> _Group:
        """The rows of `group` with all positions, as they last went into a layer."""
        store.write("input", number, group.rows, group.columns.index, group.hidden)
        inputs = store.read("input", number, group.rows)
        everywhere = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        return _Group(group.rows, Columns.where(everywhere), inputs.clone())

    def _watch(self, store: PositionStore, number: int, rows: Tensor, request: Request) -> None:
        """Choose the committed tokens that the window looks at most."""
        columns, is_committed = request.columns, request.state.is_committed[rows]
        weights = self._weights(store, number, rows, columns.index[rows], request)
        is_open = columns.is_open[rows][:, None, :, None]
        attention = (weights * is_open).sum((1, 2))
        count = min(self._config.track, attention.shape[1])
        chosen = attention.masked_fill(~is_committed, -1).topk(count, dim=1).indices
        # With fewer committed tokens than are to be watched, the first one counts several times.
        chosen = torch.where(is_committed.gather(1, chosen), chosen, chosen[:, :1])
        if number not in self._tracked:
            self._tracked[number] = torch.zeros(
                (len(request.state), count), dtype=torch.long, device=chosen.device
            )
        self._tracked[number][rows] = chosen

    def _weights(
        self, store: PositionStore, number: int, rows: Tensor, index: Tensor, request: Request
    ) -> Tensor:
        """Attention of some positions as it is kept, float32 `(n, heads, width, positions)`."""
        queries = take(store.read("query", number, rows), index).float()
        keys = store.read("key", number, rows).float()
        keys = keys.repeat_interleave(queries.shape[2] // keys.shape[2], dim=2)
        scores = torch.einsum("nqhd,nkhd->nhqk", queries, keys) / queries.shape[-1] ** 0.5
        hidden = ~request.state.is_real[rows][:, None, None]
        weights: Tensor = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return weights
