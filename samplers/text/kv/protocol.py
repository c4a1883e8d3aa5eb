"""What caches of keys and values need of a model, and what a policy for them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from samplers.text.state import Columns, DecodingState


class Layer(Protocol):
    """One layer, whole or in two halves around attention."""

    def __call__(self, hidden: Tensor, rotary: Tensor, mask: Tensor | None = None) -> Tensor:
        """The layer's output `(rows, positions, width)`; `mask` as in `AttentionRule.mask`."""
        ...

    def project(self, hidden: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `(rows, positions, heads, head_dim)`."""
        ...

    def finish(self, hidden: Tensor, context: Tensor) -> Tensor:
        """The layer's output `(rows, positions, width)` given what attention found."""
        ...


@runtime_checkable
class LayeredModel(Protocol):
    """A transformer whose forward pass can be taken apart; `LLaDATransformer` is one."""

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in order."""
        ...

    def embed(self, input_ids: Tensor) -> Tensor:
        """Vectors `(rows, positions, width)` of tokens, int64 `(rows, positions)`."""
        ...

    def rotary(self, position_ids: Tensor) -> Tensor:
        """What turns queries and keys at positions, int64 `(rows, positions)`."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits `(rows, positions, vocabulary)` of the last layer's output."""
        ...


@dataclass
class Work:
    """What a policy has spent.

    Attributes:
        rows: rows of all forward passes.
        calls: forward passes.
        computed: positions that were run through all layers; one that was run through half of them
            counts half.
        reused: positions of the same forward passes that were not.
    """

    rows: int = 0
    calls: int = 0
    computed: float = 0.0
    reused: float = 0.0

    def add(self, other: Work) -> None:
        """Count what another policy has spent, too."""
        self.rows += other.rows
        self.calls += other.calls
        self.computed += other.computed
        self.reused += other.reused


@dataclass(frozen=True)
class Request:
    """What is asked of a model in a step; with guidance, the rows of both branches.

    Attributes:
        state: the rows.
        is_opened: bool `(rows,)`, whether a new window begins.
        columns: positions in the sequence whose logits are wanted.
    """

    state: DecodingState
    is_opened: Tensor
    columns: Columns


class KVPolicy(Protocol):
    """Computes logits, anew or with what it has kept. It holds rows in the order they came.

    Attributes:
        work: spent so far.
    """

    work: Work

    def logits(self, request: Request) -> Tensor:
        """Logits `(rows, width, vocabulary)` at the columns asked for."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep what belongs to some rows only, int64 `(n,)`."""
        ...


def take(values: Tensor, index: Tensor) -> Tensor:
    """`values` `(rows, positions, ...)` at `index` `(rows, width)`."""
    shape = index.shape + (1,) * (values.ndim - 2)
    return values.gather(1, index.view(shape).expand(*index.shape, *values.shape[2:]))
