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
        """Keep the basis of a step; `is_end` after the last one."""
        if self._is_final and is_end:
            self._bases[prompt] = {0: basis.cpu()}
        elif not self._is_final:
            self._bases.setdefault(prompt, {})[step] = basis.cpu()

    def at(self, prompt: int, step: int) -> Tensor | None:
        """The basis of a step, or of the last one before it; None where nothing came earlier."""
        bases = self._bases.get(prompt, {})
        if not bases:
            return None
        return bases[max((known for known in bases if known <= step), default=min(bases))]

    def later(self, prompt: int, step: int) -> list[int]:
        """Steps after this one whose basis is known."""
        return [known for known in self._bases.get(prompt, {}) if known > step]


class DiversityProcessor(BatchProcessor):
    """Pushes the rows of each prompt apart; rows that have ended still push the others.

    The strength falls with the share of a row's response that is settled, so that it works with
    blocks and thresholds; with an even quota it is the published schedule.

    Source: ODD (arXiv 2603.04893), section 3; groups, history and progress are ours.

    Args:
        diversifier: the mathematics of one step of one prompt.
        alpha: strength before anything is settled.
        batch: rows that are decoded together.
        history: of earlier batches; None when there is only one.
        mask_token_id: what positions hold that are not settled.
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
        owners = batch.rows.prompt_of_row
        self._groups = {
            owner: [row for row, other in enumerate(owners) if other == owner]
            for owner in dict.fromkeys(owners)
        }
        self._pending: list[tuple[int, int, Tensor]] = []
        self._steps: dict[int, int] = {}
        self._vocabulary = 0

    def __call__(self, logits: Tensor, step: StepView) -> Tensor:
        """New logits of the living rows."""
        if self._alpha == 0:
            return logits
        self._vocabulary = logits.shape[-1]
        place = {row: at for at, row in enumerate(step.row_ids.tolist())}
        pushed = logits
        for prompt, rows in self._groups.items():
            living = [place[row] for row in rows if row in place]
            if not living:
                continue
            # From its last step on a prompt's texts stay as they are, whoever else goes on.
            self._steps[prompt] = step.index + 1
            candidates = self._candidates(logits, step, rows, place)
            outcome = self._diversify(candidates, self._known(prompt, step.index, logits))
            self._note(prompt, step.index, outcome.basis)
            kept = [at for at, row in enumerate(rows) if row in place]
            if pushed is logits:
                pushed = logits.clone()
            pushed[living] = outcome.logits[kept]
        return pushed

    def finish(self, responses: Tensor) -> None:
        """Hand what this batch was like to the ones after it."""
        if self._earlier is None or self._batch.is_last or self._alpha == 0:
            return
        for prompt, rows in self._groups.items():
            # Earlier batches may have taken more steps, in which these texts push as they ended.
            for step in (self._steps[prompt], *self._earlier.later(prompt, self._steps[prompt])):
                ended = self._ended(responses[rows], rows, step)
                basis = self._diversify(ended, self._known(prompt, step, responses)).basis
                self._pending.append((prompt, step, basis))
        for prompt, step, basis in self._pending:
            self._earlier.add(prompt, step, basis, is_end=step == self._steps[prompt])

    def _known(self, prompt: int, step: int, like: Tensor) -> Tensor | None:
        basis = None if self._earlier is None else self._earlier.at(prompt, step)
        return None if basis is None else basis.to(like.device)

    def _note(self, prompt: int, step: int, basis: Tensor) -> None:
        if self._earlier is not None and not self._batch.is_last:
            self._pending.append((prompt, step, basis))

    def _candidates(
        self, logits: Tensor, step: StepView, rows: Sequence[int], place: dict[int, int]
    ) -> Candidates:
        """The rows of a prompt; those that have ended have no open position."""
        at = torch.tensor([place.get(row, -1) for row in rows], device=logits.device)
        is_living = at >= 0
        tokens = step.responses[list(rows)]
        progress = torch.where(is_living, step.progress[at], 1.0)
        return Candidates(
            logits=logits if self._is_all(at, len(logits)) else logits[at],
            positions=step.columns.index[at],
            is_open=step.columns.is_open[at] & is_living[:, None],
            tokens=tokens,
            is_committed=tokens != step.mask_token_id,
            strength=self._alpha * (1 - progress),
            seeds=[self._batch.rows.seeds[row] for row in rows],
            step=step.index,
        )

    @staticmethod
    def _is_all(at: Tensor, count: int) -> bool:
        return at.tolist() == list(range(count))

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
