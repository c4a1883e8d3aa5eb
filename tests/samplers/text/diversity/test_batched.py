"""All prompts at once against each prompt on its own, row by row."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.diversity import POOLINGS, PROTECTED, REPELLING, TABLE, VOCAB, WIDTH, make

from samplers.text.diversity import diversify as diversify_module
from samplers.text.diversity import engine
from samplers.text.diversity.candidates import Candidates
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.diversify import Diversifier

TENSORS = ("logits", "positions", "is_open", "tokens", "is_committed", "strength")
OPTIONS = (
    {},
    {"quality": False},
    {"quality_gradient": False},
    {"gate": "confidence"},
    {"gate": "threshold", "gate_threshold": 0.6},
    {"on_duplicate": "skip"},
    {"drop_committed_special": True},
)


def ascending(given: Candidates) -> Candidates:
    """The same with open positions first, in order."""
    order = torch.where(given.is_open, given.positions, 99).argsort(1)
    at = order[..., None].expand_as(given.logits)
    return dataclasses.replace(
        given,
        positions=given.positions.gather(1, order),
        is_open=given.is_open.gather(1, order),
        logits=given.logits.gather(1, at),
    )


def with_rows(given: Candidates, rows: list[int]) -> Candidates:
    return dataclasses.replace(given, **{name: getattr(given, name)[rows] for name in TENSORS})


@pytest.fixture
def prompts() -> list[Candidates]:
    """One of different rows, one with equal ones, and one in which a row has ended."""
    plain, equal, ended = (ascending(make(rows=5, seed=seed)) for seed in range(3))
    is_left = torch.arange(5) != 1
    return [
        plain,
        with_rows(equal, [0, 0, 1, 1, 2]),
        dataclasses.replace(ended, is_open=ended.is_open & is_left[:, None]),
    ]


def stacked(prompts: list[Candidates]) -> Candidates:
    tensors = {name: torch.stack([getattr(one, name) for one in prompts]) for name in TENSORS}
    return dataclasses.replace(prompts[0], **tensors, seeds=())


def directions(basis: torch.Tensor) -> torch.Tensor:
    """Those that are not 0."""
    return basis[basis.any(-1)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("with_history", [False, True])
def test_batched_prompts_are_prompts_alone(prompts, options, with_history: bool) -> None:
    diversify = Diversifier(DiversityConfig(**options), protected=PROTECTED)
    histories = [None] * 3
    if with_history:
        earlier = [ascending(make(rows=2 + index, seed=7 + index)) for index in range(3)]
        histories = [diversify(one).basis for one in earlier]
    batched = stacked(prompts)
    seeds = [one.seeds for one in prompts]
    found = diversify.of_prompts(batched, seeds, histories)
    for own, outcome, history in zip(prompts, found, histories, strict=True):
        alone = diversify(own, history)
        assert torch.allclose(outcome.logits, alone.logits, atol=1e-5)
        assert torch.equal(outcome.logits == own.logits, alone.logits == own.logits)
        assert torch.allclose(directions(outcome.basis), alone.basis, atol=1e-5)
        assert torch.allclose(outcome.quality, alone.quality, atol=1e-6)


@pytest.mark.parametrize("strategy", REPELLING)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("features", ["probabilities", "embeddings"])
@pytest.mark.parametrize("top_k", [0, 3])
def test_batched_prompts_are_prompts_alone_in_all_settings(
    prompts, strategy: str, pooling: str, features: str, top_k: int
) -> None:
    config = DiversityConfig(strategy=strategy, pooling=pooling, features=features, top_k=top_k)
    diversify = Diversifier(config, protected=PROTECTED, embeddings=TABLE)
    seeds = [one.seeds for one in prompts]
    found = diversify.of_prompts(stacked(prompts), seeds, [None] * 3)
    for own, outcome in zip(prompts, found, strict=True):
        alone = diversify(own)
        assert torch.allclose(outcome.logits, alone.logits, atol=1e-4)
        assert torch.equal(outcome.logits == own.logits, alone.logits == own.logits)
        assert torch.allclose(directions(outcome.basis), alone.basis, atol=1e-4)


@pytest.mark.parametrize("options", [{"pooling": "mean"}, {"top_k": 3}, {"strategy": "dpp"}])
def test_other_settings_are_the_same_to_the_bit(prompts, options) -> None:
    diversify = Diversifier(DiversityConfig(**options), protected=PROTECTED)
    found = diversify.of_prompts(stacked(prompts), [one.seeds for one in prompts], [None] * 3)
    for own, outcome in zip(prompts, found, strict=True):
        assert torch.equal(outcome.logits, diversify(own).logits)


@pytest.mark.parametrize("strategy", REPELLING)
@pytest.mark.parametrize("most", [1, 2 * WIDTH * VOCAB, 4 * WIDTH * VOCAB, 7 * WIDTH * VOCAB])
def test_chunks_of_any_size_are_one_batch(prompts, monkeypatch, strategy: str, most: int) -> None:
    """One row at a time, some rows, some prompts: as with vocabularies of any size."""
    diversify = Diversifier(DiversityConfig(strategy=strategy), protected=PROTECTED)
    seeds = [one.seeds for one in prompts]
    whole = diversify.of_prompts(stacked(prompts), seeds, [None] * 3)
    for module in (engine, diversify_module):
        monkeypatch.setattr(module, "MOST_LOGITS", most)
    for one, other in zip(
        whole, diversify.of_prompts(stacked(prompts), seeds, [None] * 3), strict=True
    ):
        assert torch.allclose(one.logits, other.logits, atol=1e-5)
        assert torch.allclose(one.basis, other.basis, atol=1e-5)
        assert torch.allclose(one.quality, other.quality, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_what_it_is(prompts, dtype) -> None:
    diversify = Diversifier(DiversityConfig(), protected=PROTECTED)
    half = [dataclasses.replace(one, logits=one.logits.to(dtype)) for one in prompts]
    given = stacked(half)
    before = given.logits.clone()
    found = diversify.of_prompts(given, [one.seeds for one in half], [None] * 3)
    assert all(one.logits.dtype == dtype for one in found)
    assert torch.equal(given.logits, before)


def test_what_is_ruled_out_stays_ruled_out(prompts) -> None:
    given = stacked(prompts)
    logits = given.logits.clone()
    logits[..., 5] = -torch.inf
    given = dataclasses.replace(given, logits=logits)
    diversify = Diversifier(DiversityConfig(), protected=PROTECTED)
    for one in diversify.of_prompts(given, [p.seeds for p in prompts], [None] * 3):
        assert bool((one.logits[..., 5] == -torch.inf).all())
        assert not bool(one.logits.isnan().any())
