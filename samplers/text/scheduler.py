"""Diversity and our commit rules inside diffusers' own `LLaDA2Pipeline`, as its scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import BlockRefinementScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_block_refinement import BlockRefinementSchedulerOutput
from torch import Tensor

from gensift.config import from_dict
from gensift.errors import ConfigError
from gensift.pipelines.llada.pipeline import forbid
from gensift.protocols import JsonObject
from samplers.text.commit import CommitRule, Factor, Pace, Quota, Threshold
from samplers.text.diversity.candidates import Candidates
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.diversify import Diversifier
from samplers.text.state import Columns

Commit = Literal["refinement", "quota", "threshold", "factor"]


class DiverseBlockScheduler(BlockRefinementScheduler):
    """A `BlockRefinementScheduler` that diversifies the rows of a prompt before it samples.

        pipe.scheduler = DiverseBlockScheduler.from_config(pipe.scheduler.config, alpha=16.0)
        pipe(input_ids=ids.repeat(16, 1), ...)

    Rows are compared within the active block, all that this pipeline shows its scheduler. The
    strength falls with the share of the block that is committed. The mask token is never sampled.

    Args:
        block_length, num_inference_steps, threshold, editing_threshold, minimal_topk: as in
            diffusers.
        alpha: strength; 0 samples as diffusers does.
        diversity: other options of `DiversityConfig`, by name.
        rows_per_prompt: so many neighbouring rows belong to one prompt; all of them when None.
        protected_ids: tokens whose logits stay, such as those that end a text.
        commit: "refinement" commits as diffusers does; "quota", "threshold" (of the call) and
            "factor" are the rules of `TextDecode`. What is left after the last step is committed.
        factor: of that rule.
        seed: decides which way equal rows part.

    Source: ODD (arXiv 2603.04893); blocks are ours.
    """

    @register_to_config
    def __init__(
        self,
        block_length: int = 32,
        num_inference_steps: int = 32,
        threshold: float = 0.95,
        editing_threshold: float | None = None,
        minimal_topk: int = 1,
        alpha: float = 16.0,
        diversity: JsonObject | None = None,
        rows_per_prompt: int | None = None,
        protected_ids: Sequence[int] = (),
        commit: Commit = "refinement",
        factor: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            block_length, num_inference_steps, threshold, editing_threshold, minimal_topk
        )
        if commit not in ("refinement", "quota", "threshold", "factor"):
            raise ConfigError(
                f"`commit` is {commit!r}; allowed: refinement, quota, threshold, factor."
            )
        options = from_dict(DiversityConfig, {**(diversity or {}), "alpha": alpha})
        self._alpha = options.alpha
        self._diversify = Diversifier(options, protected=protected_ids)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        threshold: float | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> BlockRefinementSchedulerOutput | tuple[Tensor, ...]:
        """One refinement step on logits `(rows, block, vocabulary)`; see diffusers.

        Raises:
            ConfigError: there is no mask token, or rows do not divide into prompts.
        """
        if mask_token_id is None:
            raise ConfigError("DiverseBlockScheduler fills masks; give `mask_token_id`.")
        threshold = self.config.threshold if threshold is None else threshold
        is_masked = sample == mask_token_id
        logits = self._diversified(
            forbid(model_output, [mask_token_id]), sample, is_masked, int(timestep)
        )
        output = super().step(
            logits,
            timestep,
            sample,
            mask_token_id=mask_token_id,
            threshold=threshold,
            return_dict=True,
            **options,
        )
        if self.config.commit != "refinement":
            output = self._commit(output, sample, is_masked, int(timestep), threshold)
        return output if return_dict else tuple(output.values())

    def _diversified(self, logits: Tensor, sample: Tensor, is_masked: Tensor, step: int) -> Tensor:
        if self._alpha == 0 or not bool(is_masked.any()):
            return logits
        size = self.config.rows_per_prompt or len(sample)
        if len(sample) % size:
            raise ConfigError(
                f"{len(sample)} rows do not divide into prompts of `rows_per_prompt` {size}."
            )
        columns = Columns.where(is_masked)
        index = columns.index[..., None].expand(-1, -1, logits.shape[-1])
        opened = logits.gather(1, index)
        parts = [
            self._diversify(
                self._candidates(slice(at, at + size), opened, columns, sample, step, is_masked)
            ).logits
            for at in range(0, len(sample), size)
        ]
        # A row with fewer open positions repeats its last one, unchanged: only open ones count.
        row, slot = columns.is_open.nonzero(as_tuple=True)
        moved = logits.clone()
        moved[row, columns.index[row, slot]] = torch.cat(parts)[row, slot]
        return moved

    def _candidates(
        self,
        rows: slice,
        opened: Tensor,
        columns: Columns,
        sample: Tensor,
        step: int,
        is_masked: Tensor,
    ) -> Candidates:
        share = is_masked[rows].float().mean(1)
        return Candidates(
            logits=opened[rows],
            positions=columns.index[rows],
            is_open=columns.is_open[rows],
            tokens=sample[rows],
            is_committed=~is_masked[rows],
            strength=self._alpha * share,
            seeds=[self.config.seed + row for row in range(rows.start, rows.stop)],
            step=step,
        )

    def _commit(
        self,
        output: BlockRefinementSchedulerOutput,
        sample: Tensor,
        is_masked: Tensor,
        step: int,
        threshold: float,
    ) -> BlockRefinementSchedulerOutput:
        """The same step, committed by one of our rules; edits stay as they are."""
        confidence = output.sampled_probs.float().masked_fill(~is_masked, -torch.inf)
        width, rows = sample.shape[1], torch.ones_like(sample[:, 0])
        pace = Pace(rows * width, rows * min(self.num_inference_steps, width), rows * step)
        # The pipeline leaves a block after its last step, committed or not.
        is_last = step >= self.num_inference_steps - 1
        rule = self._rule(threshold)
        chosen = is_masked if is_last else rule.choose(confidence, pace) & is_masked
        committed = chosen | output.editing_transfer_index
        tokens = torch.where(committed, output.sampled_tokens, sample)
        return BlockRefinementSchedulerOutput(
            **{**dict(output), "prev_sample": tokens, "transfer_index": chosen}
        )

    def _rule(self, threshold: float) -> CommitRule:
        if self.config.commit == "quota":
            return Quota()
        is_threshold = self.config.commit == "threshold"
        return Threshold(threshold) if is_threshold else Factor(self.config.factor)
