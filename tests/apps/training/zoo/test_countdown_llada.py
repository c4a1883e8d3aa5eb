"""The recipe of countdown-llada: its batches, its loss by hand, and what it publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gensift
from apps.training.zoo import countdown_llada
from apps.training.zoo.countdown_llada import (
    BATCH,
    DEFAULTS,
    AnswerLoss,
    batch_at,
    build_optimizer,
    build_transformer,
    publish,
)
from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.zoo.countdown.checker import is_right
from gensift.zoo.countdown.problems import parse_problem
from gensift.zoo.countdown.tokenizer import VOCABULARY, build_tokenizer


def test_a_step_has_its_own_batch() -> None:
    first, again, other = (batch_at(step) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_batches_hold_problems_and_right_answers() -> None:
    ids, _, _ = batch_at(0)
    assert ids.shape == (BATCH, 14) and ids.dtype == torch.int64
    texts = build_tokenizer().batch_decode(ids)
    shown_sorted = 0
    for text in texts:
        words = text.split()
        problem = parse_problem(" ".join(words[:7]))
        assert problem is not None and is_right(problem, " ".join(words[7:]))
        shown_sorted += " ".join(words[:7]) == problem.text
    # Numbers are shown in any order: one in six is sorted, a few more with equal numbers.
    assert 0.05 < shown_sorted / BATCH < 0.35


def test_what_is_masked_follows_shares_spread_over_zero_to_one() -> None:
    batches = [batch_at(step) for step in range(50)]
    is_masked = torch.stack([masked for _, masked, _ in batches]).float()
    shares = torch.stack([share for _, _, share in batches])
    assert bool((shares >= 0.02).all()) and bool((shares <= 1).all())
    edges = torch.arange(BATCH + 1) / BATCH
    assert bool((shares >= edges[:-1] - 1e-6).all())
    assert bool((shares[:, 3:] <= edges[4:] + 1e-6).all())
    assert torch.allclose(is_masked.mean((0, 2)), shares.mean(0), atol=0.13)
    assert is_masked.mean().item() == pytest.approx(shares.mean().item(), abs=0.01)


def test_the_loss_by_hand() -> None:
    transformer = build_transformer()
    ids, is_masked, shares = batch_at(7)
    with torch.no_grad():
        loss = AnswerLoss(transformer)(ids, is_masked, shares)
        total = 0.0
        for row, masked, share in zip(ids, is_masked, shares, strict=True):
            shown = row.clone()
            for place in range(7):
                if masked[place]:
                    shown[7 + place] = VOCABULARY.index("[MASK]")
            odds = transformer(shown[None]).logits[0].log_softmax(-1)
            for place in range(7):
                if masked[place]:
                    total -= float(odds[7 + place, row[7 + place]]) / (7 * float(share))
    assert loss.item() == pytest.approx(total / BATCH, rel=1e-5)


def test_norms_do_not_decay() -> None:
    transformer = build_transformer()
    optimizer = build_optimizer(transformer)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in transformer.named_parameters():
        assert (decays[id(parameter)] == 0) == ("norm" in name or "ln_f" in name)


def test_a_few_steps_learn_the_form_of_answers(tmp_path: Path) -> None:
    transformer = build_transformer()
    optimizer = build_optimizer(transformer)
    loss = AnswerLoss(transformer)
    values = []
    for step in range(30):
        value = loss(*batch_at(step))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(value.item())
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_what_is_published_loads_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(countdown_llada, "BATCH", 4)
    finished = publish(tmp_path, steps=2)

    pipe: Any = gensift.load_pipeline(finished, device="cpu")
    assert type(pipe) is LLaDAPipeline
    assert gensift.call_defaults(pipe) == DEFAULTS
    assert pipe.transformer.dtype == torch.float32
    assert pipe.tokenizer.get_vocab() == build_tokenizer().get_vocab()
    pipe.set_progress_bar_config(disable=True)
    output = pipe("use 3 7 15 to make 36", **DEFAULTS)
    assert output.sequences.shape == (1, 7)
