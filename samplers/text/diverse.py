"""Diversity among the rows of each prompt, as a logits processor of the decoding loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samplers.text.call import Batch, BatchProcessor
from samplers.text.diversity.candidates import Candidates
from samplers.text.diversity.diversify import Diversifier
from samplers.text.engine import StepView


class History:
    """What earlier batches of the same prompts were like: an orthonormal basis per prompt and step.

    A batch that follows goes on from the basis of the same step, so that decoding in batches is
    decoding all rows at once. Bases are kept on the CPU.

    Args:
        is_final: whether to keep the basis of the finished texts alone; it serves all steps of
            later batches, and takes a fraction of the memory.
    """

    def __init__(self, *, is_final: bool) -> None:
        self._is_final = is_final
        self._bases: dict[int, dict[int, Tensor]] = {}

    def add(self, prompt: int, step: int, basis: Tensor, *, is_end: bool = False) -> None:
        """Keep the basis of a step, `(vectors, vocab)`; `is_end` after the last one."""
        if self._is_final and is_end:
            self._bases[prompt] = {0: basis.cpu()}
        elif not self._is_final:
            self._bases.setdefault(prompt, {})[step] = basis.cpu()

    def at(self, prompt: int, step: int) -> Tensor | None:
        """The basis of a step `(vectors, vocab)`, or of the last before it; None without any."""
        bases = self._bases.get(prompt, {})
        if not bases:
            return None
        return bases[max((known for known in bases if known <= step), default=min(bases))]

    def later(self, prompt: int, step: int) -> list[int]:
        """Steps after this one whose basis is known."""
        return [known for known in self._bases.get(prompt, {}) if known > step]


class DiversityProcessor(BatchProcessor):
    """Makes the rows of each prompt repel each other; those that have ended still repel the rest.

    The strength falls with the share of a row's response that is committed, so that it works with
    blocks and thresholds; with an even quota it is the published schedule.

    Source: ODD (arXiv 2603.04893), section 3; groups, history and progress are ours.

    Args:
        diversifier: the mathematics of one step of one prompt.
        alpha: strength before anything is committed.
        batch: rows that are decoded at the same time.
        history: of earlier batches; None when there is only one.
        mask_token_id: what positions hold that are not committed.
    """

    def __init__(
        self,
        diversifier: Diversifier,
        alpha: float,
        batch: Batch,
        history: History | None,
        mask_token_id: int,
    ) -> None:
        self._diversify = diversifier
        self._alpha = alpha
        self._batch = batch
        self._earlier = history
        self._mask_token_id = mask_token_id
        self._groups = _groups(batch.rows.prompt_of_row)
        self._pending: list[tuple[int, int, Tensor]] = []
        self._steps: dict[int, int] = {}
        self._vocabulary = 0

    def __call__(self, logits: Tensor, step: StepView) -> Tensor:
        """New logits of the living rows."""
        if self._alpha == 0:
            return logits
        self._vocabulary = logits.shape[-1]
        place = torch.full((len(self._batch.rows),), -1, device=logits.device)
        place[step.row_ids] = torch.arange(len(logits), device=logits.device)
        moved = logits.clone() if len(self._groups) > 1 else logits
        for prompts, members in self._groups:
            at = place[members.to(logits.device)]
            goes_on = (at >= 0).any(1)
            if bool(goes_on.any()):
                chosen = [prompts[index] for index in goes_on.nonzero()[:, 0].tolist()]
                some = members[goes_on.cpu()]
                moved = self._apart(logits, moved, step, chosen, some, at[goes_on])
        return moved

    def _apart(
        self,
        logits: Tensor,
        moved: Tensor,
        step: StepView,
        prompts: Sequence[int],
        members: Tensor,
        at: Tensor,
    ) -> Tensor:
        """Diversify some prompts, whose rows are `at` these places or -1; returns all logits."""
        candidates = self._candidates(logits, step, members, at)
        outcomes = self._diversify.of_prompts(
            candidates,
            self._seeds(members),
            [self._known(prompt, step.index, logits) for prompt in prompts],
        )
        for prompt, outcome in zip(prompts, outcomes, strict=True):
            # From its last step on a prompt's texts stay as they are, whoever else goes on.
            self._steps[prompt] = step.index + 1
            self._note(prompt, step.index, outcome.basis)
        found = [outcome.logits for outcome in outcomes]
        if _is_all(at, logits):
            return found[0] if len(found) == 1 else torch.cat(found)
        moved = logits.clone() if moved is logits else moved
        is_living = at >= 0
        moved[at[is_living]] = torch.stack(found)[is_living]
        return moved

    def finish(self, responses: Tensor) -> None:
        """Hand responses `(rows, gen_length)` of this batch to the ones after it."""
        if self._earlier is None or self._batch.is_last or self._alpha == 0:
            return
        for prompts, members in self._groups:
            for prompt, rows in zip(prompts, members.tolist(), strict=True):
                self._pending += self._afterwards(prompt, rows, responses)
        for prompt, step, basis in self._pending:
            self._earlier.add(prompt, step, basis, is_end=step == self._steps[prompt])

    def _known(self, prompt: int, step: int, like: Tensor) -> Tensor | None:
        basis = None if self._earlier is None else self._earlier.at(prompt, step)
        return None if basis is None else basis.to(like.device)

    def _note(self, prompt: int, step: int, basis: Tensor) -> None:
        if self._earlier is not None and not self._batch.is_last:
            self._pending.append((prompt, step, basis))

    def _seeds(self, members: Tensor) -> list[list[int]]:
        return [[self._batch.rows.seeds[row] for row in rows] for rows in members.tolist()]

    def _candidates(
        self, logits: Tensor, step: StepView, members: Tensor, at: Tensor
    ) -> Candidates:
        """The rows of some prompts; those that have ended have no open position."""
        is_living = at >= 0
        tokens = step.responses[members.to(logits.device)]
        progress = torch.where(is_living, step.progress[at], 1.0)
        whole = _is_all(at, logits)
        return Candidates(
            # All rows in order need no copy.
            logits=logits.view(*at.shape, *logits.shape[1:]) if whole else logits[at],
            positions=step.columns.index[at],
            is_open=step.columns.is_open[at] & is_living[..., None],
            tokens=tokens,
            is_committed=tokens != step.mask_token_id,
            strength=self._alpha * (1 - progress),
            seeds=(),
            step=step.index,
        )

    def _afterwards(
        self, prompt: int, rows: Sequence[int], responses: Tensor
    ) -> list[tuple[int, int, Tensor]]:
        """Bases of steps that a prompt's texts did not take: there they repel as they ended."""
        own, earlier = self._steps[prompt], self._earlier
        found = []
        # Earlier batches may have taken more steps.
        for step in (own, *(earlier.later(prompt, own) if earlier is not None else ())):
            ended = self._ended(responses[rows], rows, step)
            outcome = self._diversify(ended, self._known(prompt, step, responses))
            found.append((prompt, step, outcome.basis))
        return found

    def _ended(self, responses: Tensor, rows: Sequence[int], step: int) -> Candidates:
        """The rows of a prompt when all have ended."""
        count = len(responses)
        nothing = torch.zeros(count, 0, dtype=torch.long, device=responses.device)
        return Candidates(
            logits=torch.zeros(count, 0, self._vocabulary, device=responses.device),
            positions=nothing,
            is_open=nothing.bool(),
            tokens=responses,
            is_committed=torch.ones_like(responses, dtype=torch.bool),
            strength=torch.zeros(count, device=responses.device),
            seeds=[self._batch.rows.seeds[row] for row in rows],
            step=step,
        )


def _groups(owners: Sequence[int]) -> list[tuple[list[int], Tensor]]:
    """Prompts that have as many rows, and these rows, int64 `(prompts, rows)`."""
    rows_of: dict[int, list[int]] = {}
    for row, owner in enumerate(owners):
        rows_of.setdefault(owner, []).append(row)
    sizes = dict.fromkeys(len(rows) for rows in rows_of.values())
    same = {size: [p for p, rows in rows_of.items() if len(rows) == size] for size in sizes}
    return [
        (prompts, torch.tensor([rows_of[prompt] for prompt in prompts]))
        for prompts in same.values()
    ]


def _is_all(at: Tensor, logits: Tensor) -> bool:
    return torch.equal(at.flatten(), torch.arange(len(logits), device=at.device))
