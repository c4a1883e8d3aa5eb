"""The rows of one step while they are being pushed."""

from __future__ import annotations

from torch import Tensor

from samplers.text.diversity.candidates import Candidates
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.feature import Feature, extract
from samplers.text.diversity.push import gate, pushed
from samplers.text.diversity.row import read_row


class Rows:
    """A copy of the candidates' logits, and how a row of it is read and pushed.

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
        self.logits = candidates.logits.clone()
        self._protected = protected.to(self.logits.device)
        self._dropped = self._protected if config.drop_committed_special else self._protected[:0]
        self._embeddings = embeddings

    def __len__(self) -> int:
        return len(self.logits)

    def feature(self, index: int) -> Feature:
        """The feature of a row with the logits it has by now."""
        logits, top_k = self.logits[index], self.config.top_k
        row = read_row(self.candidates, index, logits, top_k=top_k, dropped=self._dropped)
        return extract(row, self.config, self._embeddings)

    def may_push(self, index: int, feature: Feature) -> bool:
        """Whether the row has a position that may move, and strength left to move it."""
        return not feature.row.is_finished and bool(self._strength(index, feature) > 0)

    def push(self, index: int, feature: Feature, by_unit: Tensor, by_quality: Tensor) -> None:
        """Move the logits of a row against the gradient of a loss by its feature and quality.

        Args:
            index: of the row.
            feature: of the row before the push.
            by_unit: `(dimension,)`.
            by_quality: a scalar.
        """
        logits, slots = self.logits[index], feature.row.slots
        gradient = feature.vjp(by_unit, by_quality)
        moved = pushed(logits[slots], gradient, self._strength(index, feature), self._protected)
        logits[slots] = moved.to(logits.dtype)

    def _strength(self, index: int, feature: Feature) -> Tensor:
        strength: Tensor = self.candidates.strength[index] * gate(feature.quality, self.config)
        return strength
