"""The reference decoding of LLaDA: blocks from left to right, in each the surest tokens first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gensift.pipelines.llada.prompts import PromptRows
from gensift.pipelines.llada.sampling import (
    RowStreams,
    end_rows,
    most_confident,
    probability_of,
    propose,
    quota,
    steps_of_span,
)
from gensift.pipelines.llada.settings import DecodingSettings


@dataclass(frozen=True)
class Step:
    """One forward pass and what it committed.

    Attributes:
        index: of the step, over all blocks.
        index_in_block: of the step in its block.
        columns: int64 `(rows, width)`, where the block lies in the sequence.
        logits: `(rows, width, vocabulary)`.
        committed: bool `(rows, width)`.
    """

    index: int
    index_in_block: int
    columns: Tensor
    logits: Tensor
    committed: Tensor


class ReferencePipeline(Protocol):
    """What decoding asks of a `LLaDAPipeline`."""

    @property
    def mask_token_id(self) -> int:
        """What stands for what is not decided yet."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a text."""
        ...

    def predict(
        self,
        tokens: Tensor,
        is_real: Tensor,
        columns: Tensor,
        *,
        prompt_length: int,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Logits `(rows, width, vocabulary)` at `columns`, int64 `(rows, width)`."""
        ...


def blank_sequences(rows: PromptRows, gen_length: int, mask_token_id: int) -> PromptRows:
    """Prompts followed by a masked response."""
    blank = rows.tokens.new_full((len(rows.tokens), gen_length), mask_token_id)
    return PromptRows(
        torch.cat([rows.tokens, blank], dim=1),
        torch.cat([rows.is_real, torch.ones_like(blank, dtype=torch.bool)], dim=1),
    )


class ReferenceDecoding:
    """The state of one plain call.

    Attributes:
        tokens: int64 `(rows, positions)`, prompt and response; a callback may replace it.
    """

    def __init__(
        self,
        pipeline: ReferencePipeline,
        prompts: PromptRows,
        settings: DecodingSettings,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._start = prompts.tokens.shape[1]
        self._mask = pipeline.mask_token_id
        self._stop_ids = pipeline.stop_ids if settings.eos_early_stop else ()
        self._streams = RowStreams(generators, settings.gen_length)
        sequences = blank_sequences(prompts, settings.gen_length, self._mask)
        self._is_real = sequences.is_real
        self.tokens = sequences.tokens

    @property
    def response(self) -> Tensor:
        """The response as it stands, int64 `(rows, gen_length)`."""
        return self.tokens[:, self._start :]

    def run(self, on_step: Callable[[Step], None]) -> None:
        """Decode to the end; `on_step` is called with every step."""
        index = 0
        for first, end in self._settings.blocks():
            columns = torch.arange(self._start + first, self._start + end)
            columns = columns.to(self.tokens.device).expand(len(self.tokens), -1)
            masks = (self.tokens.gather(1, columns) == self._mask).sum(1)
            within = 0
            while bool((is_open := self._open(columns)).any()):
                logits, committed = self._step(columns, is_open, masks, within)
                on_step(Step(index, within, columns, logits, committed))
                index, within = index + 1, within + 1

    def _open(self, columns: Tensor) -> Tensor:
        """Which of `columns` are to be decided, bool; rows that are finished have none."""
        is_ended = end_rows(self.response, self._mask, self._stop_ids)
        is_masked: Tensor = self.tokens.gather(1, columns) == self._mask
        return is_masked & ~is_ended[:, None]

    def _step(
        self, columns: Tensor, is_open: Tensor, masks: Tensor, within: int
    ) -> tuple[Tensor, Tensor]:
        settings = self._settings
        logits = self._pipeline.predict(
            self.tokens,
            self._is_real,
            columns,
            prompt_length=self._start,
            guidance_scale=settings.guidance_scale,
        )
        proposal = propose(logits, self._draw(columns, is_open), settings.temperature)
        confidence = probability_of(logits, proposal).masked_fill(~is_open, -torch.inf)
        if settings.threshold is None:
            share = steps_of_span(
                columns.shape[1], settings.gen_length, settings.num_inference_steps
            )
            steps = torch.full_like(masks, share)
            counts = quota(masks, steps, torch.full_like(masks, within))
            committed = most_confident(confidence, counts)
        else:
            surest = most_confident(confidence, torch.ones_like(masks))
            committed = surest | (confidence >= settings.threshold)
        kept = self.tokens.gather(1, columns)
        self.tokens.scatter_(1, columns, torch.where(committed, proposal, kept))
        return logits, committed

    def _draw(self, columns: Tensor, is_open: Tensor) -> Tensor:
        """Random numbers at `columns`; rows that have nothing to decide draw none."""
        rows = is_open.any(1).nonzero()[:, 0]
        uniforms = torch.zeros(columns.shape, dtype=torch.float64, device=columns.device)
        drawn = self._streams.draw(rows.tolist()).to(columns.device)
        uniforms[rows] = drawn.gather(1, columns[rows] - self._start)
        return uniforms
