"""The steps that every decoding of a masked diffusion model is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MOST_WIDE = 2**22
"""Most entries that are widened to float64 at a time; bounds memory with large vocabularies."""


class RowStreams:
    """One stream of random numbers per row.

    Every draw covers the whole response, so a token does not depend on which positions, or which
    other rows, are looked at.
    """

    def __init__(self, generators: Sequence[torch.Generator], length: int) -> None:
        self.generators = list(generators)
        self.length = length

    def draw(self, rows: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1), float64 `(rows, length)`, of the rows named."""
        drawn = [self._draw_one(self.generators[row]) for row in rows]
        return torch.stack(drawn) if drawn else torch.empty(0, self.length, dtype=torch.float64)

    def _draw_one(self, generator: torch.Generator) -> Tensor:
        return torch.rand(
            self.length, generator=generator, dtype=torch.float64, device=generator.device
        )


def propose(logits: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    """A token for every position, exactly distributed as softmax(logits / temperature).

    One uniform number per position is looked up in the cumulative distribution, in float64; that
    is the distribution of LLaDA's Gumbel rule at a fraction of its random numbers.

    Args:
        logits: `(rows, positions, vocabulary)`.
        uniforms: float64 `(rows, positions)` in [0, 1).
        temperature: 0 takes the most probable token.

    Returns:
        int64 `(rows, positions)`.
    """
    if temperature == 0:
        return logits.argmax(-1)
    vocabulary = logits.shape[-1]
    flat, numbers = logits.flatten(0, 1), uniforms.flatten().to(logits.device)
    step = max(1, _MOST_WIDE // vocabulary)
    parts = [
        _look_up(flat[at : at + step], numbers[at : at + step], temperature)
        for at in range(0, len(flat), step)
    ]
    tokens = torch.cat(parts) if parts else flat.new_empty(0, dtype=torch.long)
    return tokens.view(logits.shape[:2])


def _look_up(logits: Tensor, numbers: Tensor, temperature: float) -> Tensor:
    masses = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
    wanted = numbers[:, None] * masses[:, -1:]
    found = torch.searchsorted(masses, wanted, right=True)[:, 0]
    # Rounding can put the number at the very end, where tokens of no probability may lie.
    last = torch.searchsorted(masses, masses[:, -1:].contiguous(), right=False)[:, 0]
    return torch.minimum(found, last)


def probability_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Probability of each token at temperature 1, float32 `(rows, positions)`.

    Noise has no part in it: it says how sure the model is of what was drawn.
    """
    chosen = logits.gather(-1, tokens[..., None])[..., 0].float()
    return (chosen - torch.logsumexp(logits.float(), dim=-1)).exp()


def steps_of_span(size: int, gen_length: int, num_inference_steps: int) -> int:
    """Steps for a part of the response: its share, rounded up, at most one per token."""
    return min(size, -(-num_inference_steps * size // gen_length))


def quota(masks: Tensor, steps: Tensor, step: Tensor) -> Tensor:
    """Tokens to commit in a step, so that `masks` of them are committed evenly over `steps`.

    All int64 `(rows,)`; earlier steps take the remainder. Past the last step it is 1, so that
    decoding always goes on. Source: LLaDA, `get_num_transfer_tokens`.
    """
    share = masks // steps + (step < masks % steps).long()
    return share.clamp(min=1)


def most_confident(confidence: Tensor, counts: Tensor) -> Tensor:
    """The `counts` best positions of each row, ties to the earlier one; bool `(rows, positions)`.

    Positions of confidence -inf are never among them.
    """
    order = confidence.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (ranks < counts[:, None]) & (confidence > -torch.inf)


def end_rows(response: Tensor, mask_token_id: int, stop_ids: Sequence[int]) -> Tensor:
    """Which rows are finished, bool `(rows,)`; fills what follows the end of their text, in place.

    A row is finished when it holds no mask, or no mask before its first stop token. What follows
    that token becomes copies of it: it can only be ignored.

    Args:
        response: int64 `(rows, gen_length)`.
        mask_token_id: what masked positions hold.
        stop_ids: tokens that end a text.
    """
    is_stop = torch.isin(
        response, torch.tensor(list(stop_ids), dtype=torch.long, device=response.device)
    )
    is_mask = response == mask_token_id
    position = torch.arange(response.shape[1], device=response.device)
    beyond = response.shape[1]
    first_stop = torch.where(is_stop, position, beyond).amin(1)
    first_mask = torch.where(is_mask, position, beyond).amin(1)
    is_ended = first_stop < first_mask
    stop = response.gather(1, first_stop.clamp(max=beyond - 1)[:, None])
    tail = is_ended[:, None] & (position > first_stop[:, None])
    response.copy_(torch.where(tail, stop, response))
    return is_ended | (first_mask == beyond)
