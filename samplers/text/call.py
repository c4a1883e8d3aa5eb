"""One call of a text sampler: all rows of all prompts, in batches that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gensift.cost import Cost, Stopwatch, peak_memory_mib
from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.llada.prompts import PromptRows
from gensift.pipelines.llada.sampling import RowStreams
from gensift.pipelines.llada.settings import DecodingSettings
from gensift.pipelines.loading import device_of
from gensift.randomness import make_generators
from gensift.trace import PromptTrace, Stage, Trace
from rewards.text import call_text_reward
from samplers.base import OnStep
from samplers.output import Progress, PromptResult, SamplerOutput
from samplers.scoring import RewardSpec, Scorer, reward_parts
from samplers.text.attention import AttentionRule
from samplers.text.building import (
    build_attention,
    build_commit,
    build_kv,
    build_window,
    end_of_text_ids,
)
from samplers.text.confidence import CONFIDENCES
from samplers.text.config import DecodeOptions
from samplers.text.denoiser import Denoiser
from samplers.text.engine import LogitsProcessor, Policies, StepView, TextRun
from samplers.text.kv.protocol import Work
from samplers.text.state import DecodingState


@dataclass(frozen=True)
class CallRows:
    """All rows of a call, those of a prompt next to each other.

    Attributes:
        prompts: one row per text.
        prompt_of_row: index of the prompt.
        seeds: per row.
    """

    prompts: PromptRows
    prompt_of_row: tuple[int, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, prompts: PromptRows, seeds: Sequence[Sequence[int]]) -> CallRows:
        """As many rows of each prompt as it has seeds."""
        counts = [len(group) for group in seeds]
        return cls(
            prompts.repeat(counts),
            tuple(index for index, count in enumerate(counts) for _ in range(count)),
            tuple(seed for group in seeds for seed in group),
        )

    def __len__(self) -> int:
        return len(self.seeds)

    def select(self, rows: slice) -> CallRows:
        """Some rows only."""
        return CallRows(self.prompts.select(rows), self.prompt_of_row[rows], self.seeds[rows])


@dataclass(frozen=True)
class Batch:
    """Rows that are decoded at the same time.

    Attributes:
        rows: which.
        is_last: whether no batch follows.
    """

    rows: CallRows
    is_last: bool


class BatchProcessor(LogitsProcessor):
    """A logits processor that also learns how the texts of a batch came out."""

    def finish(self, responses: Tensor) -> None:
        """Take note of the responses, int64 `(rows, gen_length)`."""


ProcessorsOfBatch = Callable[[Batch], Sequence[BatchProcessor]]


@dataclass(frozen=True)
class StepSnapshot:
    """A step as it is shown to who follows the decoding.

    Attributes:
        index: of the step.
        texts: of the rows of the batch, with masks shown.
        prompts: per row, the prompt it belongs to.
    """

    index: int
    texts: list[str]
    prompts: list[str]


@dataclass(kw_only=True)
class TextCall:
    """One call of a text sampler, from rows of prompts to scored texts.

    Attributes:
        pipeline: whose model and tokenizer.
        settings: options of the plain call.
        options: those of the sampler.
        is_clean: whether confidence is that of the logits before the processors.
        processors: makes the logits processors of every batch.
        reward: what scores the texts.
        prompts: the texts.
        rows: all of them, the rows of a prompt next to each other.
        progress: called with tokens committed so far.
        on_step: shown a `StepSnapshot` after each step.
    """

    pipeline: LLaDAPipeline
    settings: DecodingSettings
    options: DecodeOptions
    is_clean: bool
    processors: ProcessorsOfBatch
    reward: RewardSpec
    prompts: Sequence[str]
    rows: CallRows
    progress: Progress | None
    on_step: OnStep | None
    _stopwatch: Stopwatch = field(default_factory=Stopwatch)
    _work: Work = field(default_factory=Work)

    def run(self) -> SamplerOutput:
        """Decode all batches, score the texts, and make results of them."""
        try:
            texts = self.pipeline.decode(self._decode())
        finally:
            self.pipeline.maybe_free_model_hooks()
        scores = self._scorer(texts)
        results, traces = [], []
        for index, prompt in enumerate(self.prompts):
            rows = [row for row, owner in enumerate(self.rows.prompt_of_row) if owner == index]
            own = {name: values[rows] for name, values in scores.items()}
            result, trace = self._result(prompt, index, rows, [texts[row] for row in rows], own)
            results.append(result)
            traces.append(trace)
        return SamplerOutput(
            results=tuple(results), cost=self._cost(), trace=Trace(prompts=tuple(traces))
        )

    def _decode(self) -> Tensor:
        options, pipeline, settings = self.options, self.pipeline, self.settings
        attention = build_attention(options, settings)
        banned, late = end_of_text_ids(options, pipeline.stop_ids)
        policies = Policies(
            window=build_window(options, settings, pipeline.tokenizer),
            commit=build_commit(options, settings),
            confidence=CONFIDENCES[options.commit_order],
            late_ids=late,
            is_clean=self.is_clean,
        )
        size = options.max_rows or len(self.rows)
        parts = []
        for start in range(0, len(self.rows), size):
            is_last = start + size >= len(self.rows)
            batch = Batch(self.rows.select(slice(start, start + size)), is_last)
            with self._stopwatch.part("decode"):
                own = self.processors(batch)
                chosen = replace(policies, processors=own)
                responses = self._decode_batch(batch, chosen, attention, banned)
                for processor in own:
                    processor.finish(responses)
            parts.append(responses)
        return torch.cat(parts)

    def _decode_batch(
        self,
        batch: Batch,
        policies: Policies,
        attention: AttentionRule,
        banned: Sequence[int],
    ) -> Tensor:
        pipeline, settings = self.pipeline, self.settings
        mask, lead = pipeline.mask_token_id, int(pipeline.config.shift_logits)
        policy = build_kv(self.options, pipeline.transformer, attention, lead)
        run = TextRun(
            denoiser=Denoiser(policy, settings.guidance_scale, lead, (mask, *banned)),
            policies=policies,
            settings=settings,
            streams=RowStreams(make_generators(batch.rows.seeds), settings.gen_length),
            state=DecodingState.begin(batch.rows.prompts, settings.gen_length, mask),
            stop_ids=pipeline.stop_ids if settings.eos_early_stop else (),
            on_step=lambda step: self._show(batch, step),
        )
        responses = run.run()
        self._work.add(policy.work)
        return responses

    def _show(self, batch: Batch, step: StepView) -> None:
        if self.progress is not None:
            committed = int((step.responses != step.mask_token_id).sum())
            self.progress("denoise", committed, step.responses.numel())
        if self.on_step is not None:
            shown = [self._readable(row) for row in step.responses]
            owners = [self.prompts[index] for index in batch.rows.prompt_of_row]
            self.on_step(StepSnapshot(step.index, shown, owners))

    def _readable(self, response: Tensor) -> str:
        """The text as it stands, a low line for every mask."""
        mask = self.pipeline.mask_token_id
        tokenizer = self.pipeline.tokenizer
        parts, committed = [], []
        for token in [*response.tolist(), mask]:
            if token != mask:
                committed.append(token)
                continue
            if committed:
                parts.append(tokenizer.decode(committed, skip_special_tokens=True))
                committed = []
            parts.append("_")
        return " ".join(parts[:-1])

    def _scorer(self, texts: Sequence[str]) -> dict[str, Tensor]:
        owners = [self.prompts[index] for index in self.rows.prompt_of_row]
        scores = {}
        for name, reward in reward_parts(self.reward).items():
            with self._stopwatch.part("reward"):
                scores[name] = call_text_reward(reward, texts, owners)
        return scores

    def _result(
        self,
        prompt: str,
        index: int,
        rows: Sequence[int],
        texts: Sequence[str],
        scores: dict[str, Tensor],
    ) -> tuple[PromptResult, PromptTrace]:
        seeds = tuple(self.rows.seeds[row] for row in rows)
        most = self.options.num_outputs or len(rows)
        combined = torch.zeros(len(rows))
        if scores:
            combined = Scorer(self.reward).combine(scores)
        rewards = combined.tolist()
        best = sorted(range(len(rows)), key=lambda at: (-rewards[at], at))[:most]
        steps = self.settings.num_inference_steps
        stage = Stage(
            step_index=steps - 1,
            num_inference_steps=steps,
            alive=tuple(range(len(rows))),
            scores={name: tuple(values.tolist()) for name, values in scores.items()},
            combined=tuple(rewards),
            kept=tuple(sorted(best)),
            is_final=True,
        )
        result = PromptResult(
            prompt=prompt,
            samples=[texts[at] for at in best],
            rewards=tuple(rewards[at] for at in best) if scores else (),
            all_rewards=tuple(
                {name: float(values[at]) for name, values in scores.items()} for at in best
            )
            if scores
            else (),
            seeds=tuple(seeds[at] for at in best),
            first_reward=rewards[0] if scores else None,
            mean_reward=sum(rewards) / len(rewards) if scores else None,
        )
        stages = (stage,) if scores else ()
        return result, PromptTrace(prompt=prompt, prompt_index=index, seeds=seeds, stages=stages)

    def _cost(self) -> Cost:
        return Cost(
            nfe=self._work.rows,
            denoiser_calls=self._work.calls,
            tokens=round(self._work.computed),
            cache_hits=round(self._work.reused),
            reward_calls=dict.fromkeys(reward_parts(self.reward), len(self.rows)),
            seconds=self._stopwatch.seconds,
            peak_memory_mib=peak_memory_mib(device_of(self.pipeline)),
        )
