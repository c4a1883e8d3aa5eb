"""Candidates of diverse decoding, small ones, in which everything occurs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from samplers.text.diversity.candidates import Candidates, Diversified
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.diversify import Diversifier

VOCAB, LENGTH, WIDTH, ROWS = 40, 9, 5, 4
PROTECTED = (3, 17)
SEQUENTIAL = ("odd", "orthogonal-projection", "random-probe")
REPELLING = (*SEQUENTIAL, "dpp")
POOLINGS = ("max", "mean", "positional")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TABLE = torch.randn(VOCAB, 12, generator=generator(99))


def make(rows: int = ROWS, strength: float = 2.0, seed: int = 0, **changes: Any) -> Candidates:
    """Rows with 5, 4, 3, 5, .. open positions, some committed ones, and some that are neither."""
    random = generator(seed)
    positions = torch.stack([torch.randperm(LENGTH, generator=random) for _ in range(rows)])
    committed = torch.zeros(rows, LENGTH, dtype=torch.bool)
    committed.scatter_(1, positions[:, WIDTH : WIDTH + 3], True)
    count = torch.tensor([WIDTH - index % 3 for index in range(rows)])
    made = Candidates(
        logits=3 * torch.randn(rows, WIDTH, VOCAB, generator=random),
        positions=positions[:, :WIDTH],
        is_open=torch.arange(WIDTH) < count[:, None],
        # Few different tokens, so that a row has the same one twice.
        tokens=torch.randint(16, 19, (rows, LENGTH), generator=random),
        is_committed=committed,
        strength=torch.full((rows,), strength),
        seeds=[100 + index for index in range(rows)],
        step=3,
    )
    return dataclasses.replace(made, **changes)


def alike(dtype: torch.dtype = torch.float32, rows: int = 3) -> Candidates:
    """Rows that only their seeds tell apart."""
    one = make(rows=1)
    fields = ("logits", "positions", "is_open", "tokens", "is_committed", "strength")
    same = {name: getattr(one, name).repeat_interleave(rows, 0) for name in fields}
    same["logits"] = same["logits"].to(dtype)
    return dataclasses.replace(one, **same, seeds=list(range(rows)))


def part(given: Candidates, rows: slice) -> Candidates:
    changes = {
        field.name: getattr(given, field.name)[rows]
        for field in dataclasses.fields(given)
        if field.name != "step"
    }
    return dataclasses.replace(given, **changes)


def diversified(given: Candidates, history: Tensor | None = None, **options: Any) -> Diversified:
    config = DiversityConfig(**options)
    return Diversifier(config, protected=PROTECTED, embeddings=TABLE)(given, history)
