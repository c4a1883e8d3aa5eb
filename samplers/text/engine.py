"""The decoding loop: open windows, ask the model, choose, commit, until every row has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gensift.pipelines.llada.sampling import RowStreams, end_rows, propose, steps_of_span
from gensift.pipelines.llada.settings import DecodingSettings
from samplers.text.commit import CommitRule, Pace
from samplers.text.confidence import Confidence, random
from samplers.text.denoiser import Denoiser
from samplers.text.state import Columns, DecodingState
from samplers.text.windows import Proposal, WindowPolicy

_LATE = 100.0
"""Taken off the confidence of what comes last: more than confidences can differ by."""


@dataclass(frozen=True)
class StepView:
    """What a logits processor, and who watches, sees of a step.

    Attributes:
        index: of the step.
        row_ids: int64 `(rows,)`, which row of the batch each of the living ones is.
        columns: positions of the response that may be committed in this step.
        responses: int64 `(all rows, gen_length)`, finished rows too.
        mask_token_id: what positions hold that are not committed.
        progress: float32 `(rows,)`, share of each living row's response that is committed.
    """

    index: int
    row_ids: Tensor
    columns: Columns
    responses: Tensor
    mask_token_id: int
    progress: Tensor


class LogitsProcessor(Protocol):
    """Changes what the model says before tokens are drawn."""

    def __call__(self, logits: Tensor, step: StepView) -> Tensor:
        """New logits `(rows, width, vocabulary)`; the given ones stay as they are."""
        ...


@dataclass(frozen=True)
class Policies:
    """What a decoding is made of.

    Attributes:
        window: where a step may commit tokens.
        commit: how many.
        confidence: which first.
        processors: what changes the logits, in this order.
        late_ids: tokens that are committed only when nothing else is left, such as those that end a
            text.
        is_clean: whether confidence is that of the logits before the processors.
    """

    window: WindowPolicy
    commit: CommitRule
    confidence: Confidence
    processors: Sequence[LogitsProcessor] = ()
    late_ids: Sequence[int] = ()
    is_clean: bool = False


@dataclass
class TextRun:
    """One batch of rows, from masks to text.

    Attributes:
        denoiser: the model.
        policies: what the decoding is made of.
        settings: of the call.
        streams: random numbers of each row.
        state: the living rows.
        stop_ids: tokens that end a text; none to write every row to its full length.
        on_step: called after each step.
        responses: int64 `(all rows, gen_length)`, as they stand.
    """

    denoiser: Denoiser
    policies: Policies
    settings: DecodingSettings
    streams: RowStreams
    state: DecodingState
    stop_ids: Sequence[int] = ()
    on_step: Callable[[StepView], None] = lambda step: None
    responses: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.responses = self.state.response.clone()

    def run(self) -> Tensor:
        """Decode to the end and return the responses."""
        index = 0
        while self._drop_ended():
            self.on_step(self._step(index))
            index += 1
        return self.responses

    def _drop_ended(self) -> bool:
        """Take finished rows out; returns whether any are left."""
        state = self.state
        is_ended = end_rows(state.response, state.mask_token_id, self.stop_ids)
        self._copy_responses()
        if bool(is_ended.any()):
            living = (~is_ended).nonzero()[:, 0]
            if len(living):
                self.denoiser.select(living, len(state))
            self.state = state.select(living)
        return len(self.state) > 0

    def _copy_responses(self) -> None:
        self.responses[self.state.row_ids] = self.state.response

    def _step(self, index: int) -> StepView:
        state = self.state
        is_opened = self._open_windows()
        columns = Columns.where(self._eligible())
        within = Columns(columns.index + state.prompt_length, columns.is_open)
        clean = self.denoiser.logits(state, is_opened, within)
        state.changed = torch.zeros_like(state.changed)
        progress = 1 - state.is_masked.float().mean(1)
        view = StepView(
            index, state.row_ids, columns, self.responses, state.mask_token_id, progress
        )
        logits = clean
        for process in self.policies.processors:
            logits = process(logits, view)
        self._fix_plan(self._propose(logits, clean, columns), columns, is_opened)
        self._copy_responses()
        return view

    def _open_windows(self) -> Tensor:
        """Let rows whose window is full go on to the next one; returns which, bool `(rows,)`."""
        state = self.state
        is_opened = ~self._inside(state.first, state.end).any(1)
        state.previous = torch.where(is_opened, state.first, state.previous)
        state.first = torch.where(is_opened, state.end, state.first)
        reach = self.policies.window.reach(state)
        state.end = torch.where(is_opened, state.first + reach, state.end)
        return is_opened

    def _inside(self, first: Tensor, end: Tensor) -> Tensor:
        """Masked positions of the windows, bool `(rows, gen_length)`."""
        position = torch.arange(self.state.response.shape[1], device=first.device)
        inside = (position >= first[:, None]) & (position < end[:, None])
        return self.state.is_masked & inside

    def _eligible(self) -> Tensor:
        return self.policies.window.limit(self._inside(self.state.first, self.state.end))

    def _propose(self, logits: Tensor, clean: Tensor, columns: Columns) -> Proposal:
        rows = self.state.row_ids.tolist()
        device = logits.device
        uniforms = self.streams.draw(rows).to(device).gather(1, columns.index)
        tokens = propose(logits, uniforms, self.settings.temperature)
        if self.policies.confidence is random:
            uniforms = self.streams.draw(rows).to(device).gather(1, columns.index)
        source = clean if self.policies.is_clean else logits
        confidence = self.policies.confidence(source, tokens, uniforms)
        if self.policies.late_ids:
            late = torch.tensor(list(self.policies.late_ids), device=device)
            confidence = confidence - _LATE * torch.isin(tokens, late)
        return Proposal(columns.index, tokens, confidence.masked_fill(~columns.is_open, -torch.inf))

    def _fix_plan(self, proposal: Proposal, columns: Columns, is_opened: Tensor) -> None:
        state = self.state
        if bool(is_opened.any()):
            self._size_windows(proposal, is_opened)
        is_inside = proposal.position < state.end[:, None]
        confidence = proposal.confidence.masked_fill(~is_inside, -torch.inf)
        pace = Pace(state.masks, self._steps(), state.step)
        chosen = self.policies.commit.choose(confidence, pace) & columns.is_open & is_inside
        self._write(proposal, chosen)
        state.step = state.step + 1

    def _size_windows(self, proposal: Proposal, is_opened: Tensor) -> None:
        """Now that something is proposed, say where the new windows end."""
        state = self.state
        size = self.policies.window.size(state, proposal)
        state.end = torch.where(is_opened, state.first + size, state.end)
        masks = self._inside(state.first, state.end).sum(1)
        state.masks = torch.where(is_opened, masks, state.masks)
        state.step = state.step.masked_fill(is_opened, 0)

    def _steps(self) -> Tensor:
        """Steps that each row's window has, int64 `(rows,)`."""
        given = [
            steps_of_span(size, self.settings.gen_length, self.settings.num_inference_steps)
            for size in (self.state.end - self.state.first).tolist()
        ]
        return torch.tensor(given, device=self.state.first.device)

    def _write(self, proposal: Proposal, chosen: Tensor) -> None:
        state = self.state
        row, slot = chosen.nonzero(as_tuple=True)
        position = proposal.position[row, slot]
        state.response[row, position] = proposal.tokens[row, slot]
        state.changed[row, position + state.prompt_length] = True
