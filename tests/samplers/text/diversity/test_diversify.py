"""The closed form against the definition: dense, in float64, with autograd."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from helpers.diversity import (
    LENGTH,
    POOLINGS,
    PROTECTED,
    REPELLING,
    TABLE,
    VOCAB,
    WIDTH,
    diversified,
    make,
)
from torch import Tensor

from samplers.text.diversity.candidates import Candidates
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.noise import random_directions


def reference_feature(
    given: Candidates, row: int, logits: Tensor, config: DiversityConfig
) -> tuple[Tensor, Tensor]:
    """Unit feature and quality of a row with these logits `(width, vocab)`."""
    probabilities = logits.softmax(-1)
    if config.top_k:
        kept = probabilities.topk(config.top_k, -1).indices
        probabilities = probabilities * torch.zeros_like(probabilities).scatter(-1, kept, 1.0)
    is_open = given.is_open[row]
    by_position = {
        int(at): probabilities[slot]
        for slot, at in enumerate(given.positions[row])
        if is_open[slot]
    }
    one_hot = torch.eye(VOCAB, dtype=logits.dtype)
    for at in given.is_committed[row].nonzero()[:, 0].tolist():
        token = int(given.tokens[row, at])
        if not (config.drop_committed_special and token in PROTECTED):
            by_position[at] = one_hot[token]
    order = sorted(by_position)
    if not order:
        dimension = VOCAB if config.features == "probabilities" else TABLE.shape[1]
        return logits.new_zeros(dimension), logits.new_zeros(())
    dense = torch.stack([by_position[at] for at in order])
    if config.features == "embeddings":
        dense = dense @ TABLE.to(logits.dtype)
    if config.pooling == "max":
        pooled = dense.max(0).values
    elif config.pooling == "mean":
        pooled = dense.mean(0)
    else:
        angles = torch.tensor(order, dtype=logits.dtype) * (math.pi / 2 / max(64, LENGTH))
        pooled = torch.cat([angles.cos() @ dense, angles.sin() @ dense])
    quality = probabilities[is_open].max(-1).values.sum() / max(int(is_open.sum()), 1)
    if not config.quality:
        quality = torch.ones_like(quality)
    elif not config.quality_gradient:
        quality = quality.detach()
    return pooled / pooled.norm().clamp(min=1e-12), quality


def reference_update(
    given: Candidates, row: int, logits: Tensor, loss: Tensor, source: Tensor
) -> Tensor:
    gradient = torch.autograd.grad(loss, source, retain_graph=True)[0]
    gradient = gradient if gradient.dim() == 2 else gradient[row]
    gradient[:, list(PROTECTED)] = 0
    largest = gradient.norm(dim=-1).max().clamp(min=1e-8)
    return logits - given.strength[row].double() * gradient / largest


def residual(vector: Tensor, basis: Sequence[Tensor]) -> Tensor | None:
    for _ in range(2):
        for direction in basis:
            vector = vector - (vector @ direction) * direction
    return vector / vector.norm() if vector.norm() > 1e-3 else None


def reference(given: Candidates, config: DiversityConfig) -> Tensor:
    if config.strategy == "dpp":
        return reference_dpp(given, config)
    basis: list[Tensor] = []
    outputs = []
    for row in range(len(given.logits)):
        logits = given.logits[row].double().requires_grad_()
        feature, quality = reference_feature(given, row, logits, config)
        direction = after = residual(feature.detach(), basis)
        output = logits.detach()
        if config.strategy == "random-probe":
            (noise,) = random_directions(
                torch.ones(1, len(feature)), [given.seeds[row]], given.step
            )
            direction = residual(noise.double(), basis)
        if basis and direction is not None:
            loss = -quality * (feature @ direction)
            output = reference_update(given, row, output, loss, logits)
        if config.strategy != "odd":
            after = residual(reference_feature(given, row, output, config)[0], basis)
        if after is not None:
            basis.append(after)
        outputs.append(output)
    return torch.stack(outputs)


def reference_dpp(given: Candidates, config: DiversityConfig) -> Tensor:
    logits = given.logits.double().requires_grad_()
    pairs = [reference_feature(given, row, logits[row], config) for row in range(len(logits))]
    features, quality = (torch.stack(column) for column in zip(*pairs, strict=True))
    kernel = (features @ features.mT) * (1 + quality[:, None] * quality)
    identity = torch.eye(len(kernel), dtype=kernel.dtype)
    loss = -(torch.logdet(kernel + 1e-4 * identity) - torch.logdet(kernel + (1 + 1e-4) * identity))
    outputs = [
        reference_update(given, row, logits[row].detach(), loss, logits)
        for row in range(len(logits))
    ]
    return torch.stack(outputs)


def assert_as_defined(given: Candidates, **options: Any) -> None:
    expected = reference(given, DiversityConfig(**options))
    found = diversified(given, **options).logits
    assert (found - expected).abs().max() < 1e-5
    assert (found - given.logits).abs().max() > 0.1


@pytest.mark.parametrize(
    ("pooling", "features", "top_k", "quality"),
    list(
        product(
            POOLINGS,
            ("probabilities", "embeddings"),
            (0, 4, 1000),
            ((True, True), (True, False), (False, True)),
        )
    ),
)
def test_odd_is_autograd_of_its_definition(
    pooling: str, features: str, top_k: int, quality: tuple[bool, bool]
) -> None:
    options: dict[str, Any] = {"pooling": pooling, "features": features}
    weighs, differentiates = quality
    given = make()
    config = DiversityConfig(
        **options, top_k=min(top_k, VOCAB), quality=weighs, quality_gradient=differentiates
    )
    found = diversified(
        given, **options, top_k=top_k, quality=weighs, quality_gradient=differentiates
    ).logits
    assert (found - reference(given, config)).abs().max() < 1e-5
    assert (found - given.logits).abs().max() > 0.1


@pytest.mark.parametrize("strategy", REPELLING)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("features", ["probabilities", "embeddings"])
def test_every_strategy_is_autograd_of_its_definition(
    strategy: str, pooling: str, features: str
) -> None:
    assert_as_defined(make(seed=1), strategy=strategy, pooling=pooling, features=features)


@pytest.mark.parametrize("strategy", REPELLING)
def test_special_tokens_may_be_left_out_of_the_comparison(strategy: str) -> None:
    given = make()
    assert bool((given.tokens[given.is_committed] == 17).any())
    assert_as_defined(given, strategy=strategy, drop_committed_special=True)
    kept, dropped = (
        diversified(given, strategy=strategy, drop_committed_special=drops).logits
        for drops in (False, True)
    )
    assert not torch.equal(kept, dropped)


@pytest.mark.parametrize("strategy", REPELLING)
def test_many_rows_with_everything_open(strategy: str) -> None:
    every = torch.arange(WIDTH).expand(8, WIDTH)
    given = make(
        rows=8,
        positions=every,
        is_open=torch.ones(8, WIDTH, dtype=torch.bool),
        is_committed=torch.zeros(8, LENGTH, dtype=torch.bool),
    )
    assert_as_defined(given, strategy=strategy)


@pytest.mark.parametrize("strategy", REPELLING)
def test_a_finished_row_counts(strategy: str) -> None:
    given = make()
    is_open = given.is_open.clone()
    is_open[1] = False
    assert_as_defined(dataclasses.replace(given, is_open=is_open), strategy=strategy)
