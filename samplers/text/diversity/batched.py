"""The default ODD of many prompts at once, for small vocabularies.

With a large vocabulary one row is work enough, and going row by row saves memory; with a small one
the time goes into calls. Here all rows of all prompts are one dense tensor and only Gram-Schmidt
goes through the rows. Same mathematics as `push_in_order` with max pooling of probabilities, which
the tests compare it with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.text.diversity.candidates import Candidates, Diversified
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.feature import MIN_NORM
from samplers.text.diversity.noise import random_directions
from samplers.text.diversity.repulsion import MIN_PUSH, gate
from samplers.text.diversity.sequential import resolution

MOST_DENSE = 2**23
"""Logits up to which prompts are taken together; bounds memory at a few times 32 MiB."""


def fits_together(config: DiversityConfig, candidates: Candidates) -> bool:
    """Whether this is the setting, and small enough. Leading dimensions do not matter."""
    is_default = config.strategy == "odd" and config.pooling == "max" and not config.top_k
    is_default = is_default and config.features == "probabilities"
    return is_default and candidates.logits.numel() <= MOST_DENSE


@dataclass
class _Dense:
    """Rows of all prompts as the features see them.

    Attributes:
        probabilities: float32 `(prompts, rows, width, vocab)`, 0 where not open.
        winners: int64 `(prompts, rows, vocab)`, which slot has the maximum.
        is_constant: bool `(prompts, rows, vocab)`, where a committed token has it.
        units: float32 `(prompts, rows, vocab)`, the features.
        norms: float32 `(prompts, rows, 1)`, before they were scaled.
        quality: float32 `(prompts, rows)`.
        tops: int64 `(prompts, rows, width)`, the most probable tokens.
    """

    probabilities: Tensor
    winners: Tensor
    is_constant: Tensor
    units: Tensor
    norms: Tensor
    quality: Tensor
    tops: Tensor


def push_together(
    candidates: Candidates,
    seeds: Sequence[Sequence[int]],
    config: DiversityConfig,
    protected: Tensor,
    history: Tensor | None,
) -> Diversified:
    """Push the rows of every prompt apart.

    Args:
        candidates: every tensor with a leading dimension for prompts; open positions ascend.
        seeds: per prompt and row.
        config: the options.
        protected: int64 `(tokens,)`, whose logits stay.
        history: float32 `(prompts, directions, vocab)`, rows orthonormal or 0.

    Returns:
        The same with a leading dimension; directions of rows that added none are 0.
    """
    dropped = protected if config.drop_committed_special else protected[:0]
    rows = _read(candidates, config, dropped)
    strength = candidates.strength * gate(rows.quality, config)
    may_push = candidates.is_open.any(-1) & (strength > 0)
    basis, directions = _directions(rows, may_push, seeds, candidates.step, config, history)
    gradient = _gradient(rows, directions, candidates.is_open, config)
    gradient.index_fill_(-1, protected, 0)
    largest = torch.linalg.vector_norm(gradient, dim=-1).amax(-1).clamp(min=MIN_PUSH)
    scale = torch.where(directions.any(-1), -strength / largest, 0)[..., None, None]
    moved = torch.addcmul(candidates.logits, gradient, scale).to(candidates.logits.dtype)
    is_moved = candidates.is_open[..., None] & (scale != 0)
    return Diversified(torch.where(is_moved, moved, candidates.logits), basis, rows.quality)


def _read(candidates: Candidates, config: DiversityConfig, dropped: Tensor) -> _Dense:
    is_open = candidates.is_open[..., None]
    # A slot that is not open never wins, not even over probability 0.
    shares = candidates.logits.softmax(-1, dtype=torch.float32).masked_fill(~is_open, -1)
    peaks, winners = shares.max(-2)
    first_open = candidates.positions.gather(-1, winners.flatten(2)).view_as(winners)
    committed = _first_settled(candidates, dropped, peaks.shape[-1])
    length = candidates.tokens.shape[-1]
    is_constant = (committed < length) & ((peaks < 1) | (committed < first_open))
    vector = torch.where(is_constant, 1, peaks.clamp(min=0))
    norms = torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp(min=MIN_NORM)
    probabilities = shares.clamp(min=0)
    best, tops = probabilities.max(-1)
    count = candidates.is_open.sum(-1)
    quality = best.sum(-1) / count.clamp(min=1) if config.quality else torch.ones_like(best[..., 0])
    return _Dense(
        probabilities, winners, is_constant | (peaks < 0), vector / norms, norms, quality, tops
    )


def _first_settled(candidates: Candidates, dropped: Tensor, vocab: int) -> Tensor:
    """Per token the first position where it is committed, the length where it is nowhere."""
    tokens = candidates.tokens
    length = tokens.shape[-1]
    counts = candidates.is_committed & ~torch.isin(tokens, dropped)
    position = torch.arange(length, device=tokens.device).expand_as(tokens)
    first = torch.full((*tokens.shape[:-1], vocab), length, device=tokens.device)
    return first.scatter_reduce_(-1, tokens, torch.where(counts, position, length), "amin")


def _directions(
    rows: _Dense,
    may_push: Tensor,
    seeds: Sequence[Sequence[int]],
    step: int,
    config: DiversityConfig,
    history: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The basis, and along which direction each row's feature is to grow; 0 for not at all."""
    units, limit = rows.units, resolution(config.on_duplicate)
    past = 0 if history is None else history.shape[1]
    basis = units.new_zeros(units.shape[0], past + units.shape[1], units.shape[2])
    if history is not None:
        basis[:, :past] = history
    wanted = torch.zeros_like(units)
    for row in range(units.shape[1]):
        known = basis[:, : past + row]
        direction = _outside(known, units[:, row], limit)
        is_first = ~known.any(-1).any(-1)
        if config.on_duplicate == "random":
            lost = ~direction.any(-1) & may_push[:, row] & ~is_first
            if bool(lost.any()):
                own = [seeds[prompt][row] for prompt in lost.nonzero()[:, 0].tolist()]
                noise = random_directions(units[lost, row], own, step)
                direction[lost] = _outside(known[lost], noise, limit)
        basis[:, past + row] = direction
        wanted[:, row] = direction * (may_push[:, row] & ~is_first)[:, None]
    return basis, wanted


def _outside(known: Tensor, vectors: Tensor, limit: float) -> Tensor:
    """Unit directions outside the spans of `known`, `(prompts, vocab)`; 0 where there is none."""
    residual = vectors
    for _ in range(2):
        inside = known @ residual[..., None]
        residual = residual - (inside.mT @ known)[:, 0]
    norm = torch.linalg.vector_norm(residual, dim=-1, keepdim=True)
    return torch.where(norm > limit, residual / norm, 0)


def _gradient(rows: _Dense, directions: Tensor, is_open: Tensor, config: DiversityConfig) -> Tensor:
    """Gradient of -q <f, d> by the logits, `(prompts, rows, width, vocab)`."""
    along = (rows.units * directions).sum(-1, keepdim=True)
    by_vector = -rows.quality[..., None] * (directions - along * rows.units) / rows.norms
    by_vector = by_vector.masked_fill(rows.is_constant, 0)
    by_share = torch.zeros_like(rows.probabilities)
    by_share.scatter_(-2, rows.winners[..., None, :], by_vector[..., None, :])
    if config.quality and config.quality_gradient:
        share = -along / is_open.sum(-1, keepdim=True).clamp(min=1)
        by_top = share[..., None].expand_as(rows.tops[..., None])
        by_share.scatter_add_(-1, rows.tops[..., None], by_top)
    weighted = by_share * rows.probabilities
    return weighted - rows.probabilities * weighted.sum(-1, keepdim=True)
