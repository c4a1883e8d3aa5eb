"""The rows of one step while they are being pushed."""

from __future__ import annotations

import torch
from torch import Tensor

from samplers.text.diversity.candidates import Candidates
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.feature import Feature, extract
from samplers.text.diversity.repulsion import gate, push
from samplers.text.diversity.row import read_row


class Rows:
    """The candidates' logits, and how a row of them is read and pushed.

    The probabilities of all rows share one memory: one feature at a time can be pushed along.

    Args:
        candidates: of one prompt; they stay as they are.
        config: the options.
        protected: int64 `(tokens,)`, whose logits stay.
        embeddings: float32 `(vocab, channels)` if these are compared.
    """

    def __init__(
        self,
        candidates: Candidates,
        config: DiversityConfig,
        protected: Tensor,
        embeddings: Tensor | None,
    ) -> None:
        self.candidates = candidates
        self.config = config
        logits = candidates.logits
        self._output = torch.empty_like(logits)
        self._pushed: set[int] = set()
        self._memory = torch.empty(logits.shape[1:], dtype=torch.float32, device=logits.device)
        self._protected = protected.to(self._output.device)
        self._dropped = self._protected if config.drop_committed_special else self._protected[:0]
        self._embeddings = embeddings

    def __len__(self) -> int:
        return len(self._output)

    def finish(self) -> Tensor:
        """Logits after all pushes, `(rows, width, vocab)`."""
        for index in range(len(self)):
            if index not in self._pushed:
                self._output[index] = self.candidates.logits[index]
        return self._output

    def feature(self, index: int) -> Feature:
        """The feature of a row with the logits it has by now."""
        row = read_row(
            self.candidates,
            index,
            self._logits(index),
            top_k=self.config.top_k,
            dropped=self._dropped,
            memory=self._memory,
        )
        return extract(row, self.config, self._embeddings)

    def may_push(self, index: int, feature: Feature) -> bool:
        """Whether the row has a position that may move, and strength left to move it."""
        return not feature.row.is_finished and bool(self._strength(index, feature) > 0)

    def push(self, index: int, feature: Feature, by_unit: Tensor, by_quality: Tensor) -> None:
        """Move the logits of a row against the gradient of a loss by its feature and quality.

        Args:
            index: of the row.
            feature: of the row before the push; it is spent.
            by_unit: `(dimension,)`.
            by_quality: a scalar.
        """
        logits, output, row = self._logits(index), self._output[index], feature.row
        gradient, strength = feature.vjp(by_unit, by_quality), self._strength(index, feature)
        if len(row.positions) < len(output):
            output.copy_(logits)
        moved = output[row.slots]
        push(logits[row.slots], gradient, strength, self._protected, out=moved)
        if not isinstance(row.slots, slice):
            # Not a view.
            output[row.slots] = moved
        self._pushed.add(index)

    def _logits(self, index: int) -> Tensor:
        source = self._output if index in self._pushed else self.candidates.logits
        return source[index]

    def _strength(self, index: int, feature: Feature) -> Tensor:
        strength: Tensor = self.candidates.strength[index] * gate(feature.quality, self.config)
        return strength
