"""One step of diverse decoding: logits of the samples of a prompt in, logits pushed apart out.

Source: "Free Lunch for Pass@k? Low Cost Diverse Sampling for Diffusion Language Models",
arXiv 2603.04893. Unlike the published code it needs no autograd, always computes in float32, takes
one row at a time (no graph and no temporary of the size of the batch), and changes nothing of the
caller's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from gensift.errors import ConfigError
from samplers.text.diversity.basis import Basis
from samplers.text.diversity.batched import fits_together, push_together
from samplers.text.diversity.candidates import Candidates, Diversified
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.dpp import push_jointly
from samplers.text.diversity.rows import Rows
from samplers.text.diversity.sequential import SEQUENTIAL, push_in_order


class Diversifier:
    """Pushes samples of one prompt apart.

    Args:
        config: the options; `alpha` is for the caller, who says the strength of each step.
        protected: ids of tokens whose logits are never pushed, and which `drop_committed_special`
            drops.
        embeddings: of the model's tokens, `(vocab, channels)`, on the device of the logits; for
            features of that kind only. They are kept in float32.

    Raises:
        ConfigError: if embeddings are to be compared and none are given.
    """

    def __init__(
        self,
        config: DiversityConfig,
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
        """Push the rows apart.

        Args:
            candidates: rows of one prompt.
            history: float32 `(directions, dimension)`, the orthonormal basis of earlier batches of
                this prompt, from which row 0 is pushed away too.

        Raises:
            ConfigError: if a history is given to the strategy `dpp`, which has no basis.
        """
        strategy = self.config.strategy
        if strategy == "dpp" and history is not None:
            raise ConfigError(
                "Strategy 'dpp' takes no history of earlier batches; give all samples of a prompt "
                "in one batch, or set strategy to 'odd'."
            )
        start = self._start(candidates, history)
        if strategy == "none":
            return Diversified(candidates.logits, start, torch.ones_like(candidates.strength))
        rows = Rows(candidates, self.config, self._protected, self._embeddings)
        if strategy == "dpp":
            quality = push_jointly(rows)
            return Diversified(rows.finish(), start, quality)
        basis = Basis(start, capacity=len(rows))
        quality = push_in_order(rows, basis, SEQUENTIAL[strategy])
        return Diversified(rows.finish(), basis.directions, quality)

    @torch.no_grad()
    def of_prompts(
        self,
        candidates: Candidates,
        seeds: Sequence[Sequence[int]],
        histories: Sequence[Tensor | None],
    ) -> list[Diversified]:
        """The same for several prompts that have as many rows each; quicker where rows are small.

        Args:
            candidates: every tensor with a leading dimension for prompts; within a row open
                positions ascend. Its `seeds` are not looked at.
            seeds: per prompt and row.
            histories: per prompt; rows may be 0.
        """
        if not fits_together(self.config, candidates):
            return [
                self(prompt, history)
                for prompt, history in zip(apart(candidates, seeds), histories, strict=True)
            ]
        known = _stacked([self._start(candidates, history) for history in histories])
        protected = self._protected.to(candidates.logits.device)
        found = push_together(candidates, seeds, self.config, protected, known)
        parts = zip(found.logits, found.basis, found.quality, strict=True)
        return [Diversified(*part) for part in parts]

    def _start(self, candidates: Candidates, history: Tensor | None) -> Tensor:
        """The history where the logits are; without one, no directions."""
        logits = candidates.logits
        if history is not None:
            return history.to(logits.device, torch.float32)
        dimension = logits.shape[-1] if self._embeddings is None else self._embeddings.shape[1]
        copies = 2 if self.config.pooling == "positional" else 1
        return logits.new_zeros(0, copies * dimension, dtype=torch.float32)


def apart(candidates: Candidates, seeds: Sequence[Sequence[int]]) -> Iterator[Candidates]:
    """Candidates of one prompt each, out of such as `of_prompts` takes."""
    for index, own in enumerate(seeds):
        yield Candidates(
            logits=candidates.logits[index],
            positions=candidates.positions[index],
            is_open=candidates.is_open[index],
            tokens=candidates.tokens[index],
            is_committed=candidates.is_committed[index],
            strength=candidates.strength[index],
            seeds=own,
            step=candidates.step,
        )


def _stacked(histories: Sequence[Tensor]) -> Tensor:
    """One tensor `(prompts, directions, dimension)`, filled up with 0."""
    return torch.nn.utils.rnn.pad_sequence(list(histories), batch_first=True)


def _checked(embeddings: Tensor | None) -> Tensor:
    if embeddings is None:
        raise ConfigError(
            "`features` is 'embeddings' but no table of embeddings was given; pass the model's as "
            "`embeddings`, or set features to 'probabilities'."
        )
    return embeddings
