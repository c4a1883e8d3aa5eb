"""The elastic cache against its algorithm, written here once more for a single row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.llada import MASK, ids_of, padded, transformer
from torch import Tensor
from torch.nn.functional import cosine_similarity

from gensift.pipelines.attention import attend
from gensift.pipelines.llada.prompts import PromptRows
from samplers.text.config import ElasticConfig
from samplers.text.kv.elastic import ElasticCache
from samplers.text.kv.protocol import Request
from samplers.text.state import Columns, DecodingState

LENGTH, LAYERS, STEPS = 8, 3, 4
PROMPT = ids_of("w3 w1 w4 w9 w2")
OTHER = ids_of("w7 w6")


class Naive:
    """One row without padding. Source: Elastic-Cache (arXiv 2510.14973), algorithm 1."""

    def __init__(self, model: Any, gamma: float, track: int, axis: str) -> None:
        self.model, self.gamma, self.track, self.axis = model, gamma, track, axis
        self.kept: list[dict[str, Tensor]] = []
        self.tracked: list[list[int]] = []
        self.computed = 0.0
        self.recomputed: list[int] = []

    def rows(self, layer: int, positions: list[int]) -> Tensor:
        """Attention of some positions, `(heads, positions, keys)`."""
        query, key = (self.kept[layer][name] for name in ("query", "key"))
        groups = query.shape[1] // key.shape[1]
        found = []
        for head in range(query.shape[1]):
            scores = query[positions, head] @ key[:, head // groups].T / query.shape[2] ** 0.5
            found.append(scores.softmax(-1))
        return torch.stack(found)

    def step(self, tokens: list[int], window: list[int], changed: list[int]) -> Tensor:
        everything = list(range(len(tokens)))
        is_first = not self.kept
        if is_first:
            self.kept = [{} for _ in range(LAYERS + 1)]
            self.tracked = [[] for _ in range(LAYERS)]
        asked = everything
        if not is_first:
            asked = sorted({*window, *changed, *(at for ids in self.tracked for at in ids)})
        is_full = is_first
        hidden = self.model.embed(torch.tensor([tokens]))[:, asked]
        recomputed = 0
        for number, layer in enumerate(self.model.layers):
            kept = self.kept[number]
            if is_full and not is_first:
                recomputed += 1
            self.computed += len(asked) / LAYERS
            before = None
            if not is_full:
                before = self.rows(number, self.tracked[number])
            self.write(number, "input", asked, hidden)
            rotary = self.model.rotary(torch.tensor([asked]))
            heads = layer.project(hidden, rotary)
            for name, values in zip(("query", "key", "value"), heads, strict=True):
                self.write(number, name, asked, values)
            keys, values = kept["key"][None], kept["value"][None]
            hidden = layer.finish(hidden, attend(heads[0], keys, values, None))
            drifts = False
            if before is not None:
                now = self.rows(number, self.tracked[number])
                along = {"keys": 2, "heads": 0}[self.axis]
                drifts = float(cosine_similarity(before, now, dim=along).mean()) < self.gamma
            attention = self.rows(number, window).sum((0, 1))
            committed = [at for at in everything if tokens[at] != MASK]
            committed.sort(key=lambda at: -float(attention[at]))
            self.tracked[number] = committed[: self.track]
            if drifts and number + 1 < LAYERS:
                self.write(number + 1, "input", asked, hidden)
                hidden, asked, is_full = (
                    self.kept[number + 1]["input"][None].clone(),
                    everything,
                    True,
                )
        self.recomputed.append(recomputed)
        self.write(LAYERS, "output", asked, hidden)
        found: Tensor = self.model.head(self.kept[LAYERS]["output"][None, window])[0]
        return found

    def write(self, layer: int, name: str, positions: list[int], values: Tensor) -> None:
        kept = self.kept[layer]
        if name not in kept:
            kept[name] = values[0].clone()
        kept[name][positions] = values[0]


def begin(rows: list[list[int]], width: int | None = None) -> DecodingState:
    return DecodingState.begin(PromptRows(*padded(rows, width)), LENGTH, MASK)


def ask(policy: ElasticCache, state: DecodingState, window: int = 4) -> Tensor:
    """Logits of the leftmost masks; what was committed is known from then on."""
    masked = state.is_masked & (state.is_masked.long().cumsum(1) <= window)
    columns = Columns.where(masked)
    within = Columns(columns.index + state.prompt_length, columns.is_open)
    logits = policy.logits(Request(state, torch.zeros(len(state), dtype=torch.bool), within))
    state.changed = torch.zeros_like(state.changed)
    return logits


def commit(state: DecodingState, row: int, at: int, token: int) -> None:
    state.response[row, at] = token
    state.changed[row, state.prompt_length + at] = True


WRITES = [(2, 20), (0, 11), (1, 30), (4, 8)]
"""What is committed after each step: position of the response and token."""


@pytest.mark.parametrize("axis", ["keys", "heads"])
@pytest.mark.parametrize("track", [1, 3])
@pytest.mark.parametrize("gamma", [-1.0, 0.7, 0.9, 0.98, 0.999, 2.0])
@torch.no_grad()
def test_it_is_the_algorithm(gamma: float, track: int, axis: Any) -> None:
    model = transformer(LAYERS, std=0.35)
    config = ElasticConfig(gamma=gamma, track=track, drift_axis=axis)
    policy, naive = ElasticCache(model, config), Naive(model, gamma, track, axis)
    state, changed = begin([PROMPT]), []
    for at, token in WRITES:
        window = [5 + i for i in state.is_masked[0].nonzero()[:, 0].tolist()][:4]
        wanted = naive.step(state.tokens[0].tolist(), window, changed)
        found = ask(policy, state)[0]
        assert torch.allclose(found, wanted, atol=1e-4)
        tracked = [policy._tracked[number][0].tolist() for number in range(LAYERS)]
        assert [sorted(ids) for ids in tracked] == [sorted(ids) for ids in naive.tracked]
        assert policy.work.computed == pytest.approx(naive.computed)
        commit(state, 0, at, token)
        changed = [5 + at]
    if gamma == -1:
        assert naive.recomputed == [0] * STEPS
    if gamma == 2:
        assert naive.recomputed == [0] + [LAYERS - 1] * (STEPS - 1)


@torch.no_grad()
def test_some_gammas_recompute_sometimes() -> None:
    """Else the algorithm above would be tested at its ends only."""
    model, counts = transformer(LAYERS, std=0.35), set()
    for gamma in (0.7, 0.9, 0.98, 0.999):
        naive, state, changed = Naive(model, gamma, 1, "keys"), begin([PROMPT]), []
        for at, token in WRITES:
            window = [5 + i for i in state.is_masked[0].nonzero()[:, 0].tolist()][:4]
            naive.step(state.tokens[0].tolist(), window, changed)
            commit(state, 0, at, token)
            changed = [5 + at]
        counts |= set(naive.recomputed[1:])
    assert counts == set(range(LAYERS))


@pytest.mark.parametrize("gamma", [-1.0, 2.0])
@torch.no_grad()
def test_work_by_hand(gamma: float) -> None:
    """Two rows of 13 positions; then four masks, one change and what is watched."""
    policy = ElasticCache(transformer(LAYERS), ElasticConfig(gamma=gamma))
    state = begin([PROMPT, PROMPT])
    ask(policy, state)
    assert (policy.work.computed, policy.work.reused) == (26, 0)
    commit(state, 0, 0, 20)
    commit(state, 1, 0, 30)
    counts = []
    for row in range(2):
        watched = {int(policy._tracked[number][row]) for number in range(LAYERS)}
        counts.append(len(watched | {5} | {6, 7, 8, 9}))
    ask(policy, state)
    later = sum(counts) if gamma < 0 else sum((count + 2 * 13) / 3 for count in counts)
    assert policy.work.computed == pytest.approx(26 + later)
    assert policy.work.reused == pytest.approx(26 - later)
    assert (policy.work.rows, policy.work.calls) == (4, 2)


@pytest.mark.parametrize("axis", ["keys", "heads"])
@torch.no_grad()
def test_the_drift_of_a_row_is_its_own(axis: Any) -> None:
    """For some gamma one row drifts and the other one does not; padding is no part of it."""
    model = transformer(LAYERS)
    mixed = 0
    for gamma in (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99):
        config = ElasticConfig(gamma=gamma, drift_axis=axis, track=4)
        work = []
        policies = [ElasticCache(model, config) for _ in range(3)]
        states = [begin([PROMPT, OTHER]), begin([PROMPT]), begin([OTHER])]
        for at, token in WRITES:
            found = [ask(*pair) for pair in zip(policies, states, strict=True)]
            assert torch.allclose(found[0][:1], found[1], atol=1e-4)
            assert torch.allclose(found[0][1:], found[2], atol=1e-4)
            work.append([policy.work.computed for policy in policies])
            for state in states:
                for row in range(len(state)):
                    commit(state, row, at, token)
        # The second row has three columns of padding, which full passes compute.
        alone = [work[-1][1] - work[0][1], work[-1][2] - work[0][2]]
        mixed += alone[0] != alone[1]
        assert work[-1][0] - work[0][0] >= sum(alone) - 1e-6
    assert mixed > 0


@torch.no_grad()
def test_rows_can_be_dropped() -> None:
    model = transformer(LAYERS)
    policies = [ElasticCache(model, ElasticConfig(gamma=0.95)) for _ in range(2)]
    states = [begin([PROMPT, OTHER, PROMPT[::-1]]), begin([PROMPT[::-1], OTHER], width=5)]
    for policy, state in zip(policies, states, strict=True):
        ask(policy, state)
    for row, other in ((0, None), (1, 1), (2, 0)):
        commit(states[0], row, 1, 10 + row)
        if other is not None:
            commit(states[1], other, 1, 10 + row)
    keep = torch.tensor([2, 1])
    policies[0].select(keep)
    kept = states[0].select(keep)
    for _ in range(2):
        assert torch.allclose(ask(policies[0], kept), ask(policies[1], states[1]), atol=1e-5)
        for state in (kept, states[1]):
            commit(state, 0, 3, 22)


@pytest.mark.parametrize("period", [1, 2, 3])
@torch.no_grad()
def test_full_passes_come_in_time(period: int) -> None:
    model = transformer(LAYERS)
    policy = ElasticCache(model, ElasticConfig(gamma=-1, refresh_every=period))
    state, spent = begin([PROMPT]), []
    for at, token in WRITES:
        before = policy.work.computed
        found = ask(policy, state)
        spent.append(policy.work.computed - before)
        if len(spent) % period == 1 % period:
            columns = 5 + state.is_masked[0].nonzero()[:4, 0]
            exact = model(state.tokens).logits[:, columns]
            assert torch.allclose(found, exact, atol=1e-5)
        commit(state, 0, at, token)
    assert [cost == pytest.approx(13) for cost in spent] == [
        step % period == 0 for step in range(STEPS)
    ]


@torch.no_grad()
def test_all_masks_may_be_computed() -> None:
    work = []
    for everything in (False, True):
        policy = ElasticCache(transformer(LAYERS), ElasticConfig(gamma=-1, all_masks=everything))
        state = begin([PROMPT])
        ask(policy, state, window=2)
        commit(state, 0, 0, 20)
        ask(policy, state, window=2)
        work.append(policy.work.computed - 13)
    assert work[1] == pytest.approx(work[0] + 5)  # 7 masks instead of 2
