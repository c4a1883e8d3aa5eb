"""One step of diverse decoding: logits of the samples of a prompt in, diversified ones out.

Source: "Free Lunch for Pass@k? Low Cost Diverse Sampling for Diffusion Language Models",
arXiv 2603.04893. Unlike the published code it needs no autograd, always computes in float32, takes
one row at a time (no graph and no temporary of the size of the batch), and changes nothing of the
caller's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from gensift.errors import ConfigError
from samplers.text.diversity.candidates import Candidates, Diversified
from samplers.text.diversity.config import DiversityOptions
from samplers.text.diversity.engine import MOST_LOGITS, Engine, Tables


class Diversifier:
    """Makes samples of one prompt repel each other.

    Args:
        config: the options; `alpha` is for the caller, who says the strength of each step.
        protected: ids of tokens whose logits are never moved, and which `drop_committed_special`
            drops.
        embeddings: of the model's tokens, `(vocab, channels)`, on the device of the logits; for
            features of that kind only. They are kept in float32.

    Raises:
        ConfigError: if embeddings are to be compared and none are given.
    """

    def __init__(
        self,
        config: DiversityOptions,
        *,
        protected: Collection[int] = (),
        embeddings: Tensor | None = None,
    ) -> None:
        self.config = config
        self._protected = torch.tensor(sorted(protected), dtype=torch.int64)
        self._embeddings = None
        if config.features == "embeddings":
            self._embeddings = _checked(embeddings).detach().float()

    @torch.no_grad()
    def __call__(self, candidates: Candidates, history: Tensor | None = None) -> Diversified:
        """Move the rows apart.

        Args:
            candidates: rows of one prompt.
            history: float32 `(directions, dimension)`, the orthonormal basis of earlier batches of
                this prompt, from which row 0 is kept away too.

        Raises:
            ConfigError: if a history is given to the strategy `dpp`, which has no basis.
        """
        start = self._start(candidates, history)
        if self.config.strategy == "none":
            return Diversified(candidates.logits, start, torch.ones_like(candidates.strength))
        (found,) = self._diversify(candidates.stacked(), [candidates.seeds], [start])
        return found

    @torch.no_grad()
    def of_prompts(
        self,
        candidates: Candidates,
        seeds: Sequence[Sequence[int]],
        histories: Sequence[Tensor | None],
    ) -> list[Diversified]:
        """The same for several prompts that have as many rows each.

        Args:
            candidates: every tensor with a leading dimension of prompts. Its `seeds` are not looked
                at.
            seeds: per prompt and row.
            histories: per prompt, as above.

        Raises:
            ConfigError: as above.
        """
        starts = [self._start(candidates, history) for history in histories]
        if self.config.strategy == "none":
            ones = torch.ones_like(candidates.strength)
            return [
                Diversified(*parts) for parts in zip(candidates.logits, starts, ones, strict=True)
            ]
        return self._diversify(candidates, seeds, starts)

    def _diversify(
        self, candidates: Candidates, seeds: Sequence[Sequence[int]], starts: Sequence[Tensor]
    ) -> list[Diversified]:
        """Prompts do not concern each other: as many of them make a batch as fit."""
        logits = candidates.logits
        tables = Tables(self._protected.to(logits.device), self._embeddings)
        output = torch.empty_like(logits)
        size = max(1, MOST_LOGITS // max(1, logits[0, 0].numel()))
        found: list[Diversified] = []
        for first in range(0, len(logits), size):
            part = slice(first, first + size)
            # One tensor `(prompts, directions, dimension)`, filled up with 0.
            history = torch.nn.utils.rnn.pad_sequence(list(starts[part]), batch_first=True)
            chosen = candidates.select(part)
            engine = Engine(chosen, seeds[part], self.config, tables, history, output[part])
            found += engine.run()
        return found

    def _start(self, candidates: Candidates, history: Tensor | None) -> Tensor:
        """The history where the logits are; without one, no directions."""
        if self.config.strategy == "dpp" and history is not None:
            raise ConfigError(
                "Strategy 'dpp' takes no history of earlier batches; give all samples of a prompt "
                "in one batch, or set strategy to 'odd'."
            )
        logits = candidates.logits
        if history is not None:
            return history.to(logits.device, torch.float32)
        dimension = logits.shape[-1] if self._embeddings is None else self._embeddings.shape[1]
        copies = 2 if self.config.pooling == "positional" else 1
        return logits.new_zeros(0, copies * dimension, dtype=torch.float32)


def _checked(embeddings: Tensor | None) -> Tensor:
    if embeddings is None:
        raise ConfigError(
            "`features` is 'embeddings' but no table of embeddings was given; pass the model's as "
            "`embeddings`, or set features to 'probabilities'."
        )
    return embeddings
