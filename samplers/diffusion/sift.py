"""One pipeline call's search: prune at the checkpoints, judge at the end, hand on the best."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gensift.cost import Cost, peak_memory_mib
from gensift.errors import RewardError
from gensift.trace import PromptTrace, Stage, Trace
from samplers.diffusion.judge import Judge, Verdict
from samplers.diffusion.observer import StepEvent, keep_rows
from samplers.diffusion.preview import Previewer
from samplers.diffusion.row_gate import LiveRows, RowGate
from samplers.diffusion.schedule import Checkpoint, PlannedStage, goes_on
from samplers.output import Progress, PromptResult


@dataclass
class Sift:
    """The state of a search over `len(prompts)` x `num_candidates` rows, prompt-major.

    Attributes:
        prompts: one per group of rows.
        seeds: per prompt, the seed of each candidate.
        checkpoints: where to prune.
        num_outputs: finished candidates handed on per prompt.
        judge: decodes and scores.
        previewer: decodes finished latents of this pipeline call.
        early_previewer: decodes early estimates; the same, or one with a tiny decoder.
        live: the rows that are still computed.
        max_images: pictures decoded and scored at a time.
        progress: told of steps, decodes and rewards.
        rivals: per prompt, scores of candidates finished before this call, among which the
            finished ones of this call are ranked; none by default.
    """

    prompts: Sequence[str]
    seeds: Sequence[Sequence[int]]
    checkpoints: Sequence[Checkpoint]
    num_outputs: int
    judge: Judge
    previewer: Previewer
    early_previewer: Previewer
    live: LiveRows
    stages: Sequence[PlannedStage]
    max_images: int | None = None
    progress: Progress | None = None
    rivals: Sequence[Mapping[str, Tensor]] = ()
    order: list[int] = field(default_factory=list, init=False)
    _stages: list[list[Stage]] = field(init=False)
    _seconds: dict[str, float] = field(default_factory=dict, init=False)
    _done: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._stages = [[] for _ in self.prompts]
        self._ratios = {point.step_index: point.keep for point in self.checkpoints}
        self._mark = time.perf_counter()

    @property
    def num_candidates(self) -> int:
        """Candidates per prompt."""
        return self.live.num_rows // len(self.prompts)

    def on_step(self, event: StepEvent) -> Tensor | None:
        """Observer of the scheduler: prune, judge, or just count."""
        self._report("denoise", len(self.live.alive))
        if event.step_index in self._ratios:
            self._close_segment("denoise", event.latents)
            kept = self._round(event, self._ratios[event.step_index])
            self.live.prune(row for rows in kept for row in rows)
            self._mark = time.perf_counter()
        if not event.is_last:
            return None
        self._close_segment("denoise", event.latents)
        self.order = [row for rows in self._round(event, None) for row in rows]
        self._mark = time.perf_counter()
        return keep_rows(event.latents, self.order, self.live.num_rows)

    def finish(self) -> None:
        """Call when the pipeline has returned: the rest of its time was the last decode."""
        self._close_segment("hand over", None)

    def cost(self, gates: Sequence[RowGate], device: Any) -> Cost:
        """What was spent; the pipeline's own decode of the outputs is included."""
        seconds = self._seconds | self.judge.stopwatch.seconds
        return Cost(
            nfe=sum(gate.rows_run for gate in gates),
            denoiser_calls=sum(gate.calls for gate in gates),
            decodes=self.judge.decodes + len(self.order),
            preview_decodes=self.judge.preview_decodes,
            reward_calls=dict(self.judge.reward_calls),
            seconds=seconds,
            peak_memory_mib=peak_memory_mib(device),
        )

    def trace(self) -> Trace:
        """Who was alive at each stage, how they scored, who was kept."""
        return Trace(
            prompts=tuple(
                PromptTrace(
                    prompt=prompt, prompt_index=index, seeds=tuple(seeds), stages=tuple(stages)
                )
                for index, (prompt, seeds, stages) in enumerate(
                    zip(self.prompts, self.seeds, self._stages, strict=True)
                )
            )
        )

    def results(self, samples: Sequence[Any]) -> tuple[PromptResult, ...]:
        """Pair what the pipeline returned, in the order that was handed on, with its scores."""
        results, start = [], 0
        for index, prompt in enumerate(self.prompts):
            picked = [row - index * self.num_candidates for row in self._rows(self.order, index)]
            results.append(
                self._result(index, prompt, picked, samples[start : start + len(picked)])
            )
            start += len(picked)
        return tuple(results)

    def _result(
        self, index: int, prompt: str, picked: list[int], samples: Sequence[Any]
    ) -> PromptResult:
        seeds = tuple(self.seeds[index][candidate] for candidate in picked)
        if not self._stages[index]:
            return PromptResult(
                prompt=prompt, samples=samples, rewards=(), all_rewards=(), seeds=seeds
            )
        final = self._stages[index][-1]
        place = {candidate: position for position, candidate in enumerate(final.alive)}
        finite = [value for value in final.combined if math.isfinite(value)]
        return PromptResult(
            prompt=prompt,
            samples=samples,
            rewards=tuple(final.combined[place[c]] for c in picked),
            all_rewards=tuple(
                {name: values[place[c]] for name, values in final.scores.items()} for c in picked
            ),
            seeds=seeds,
            first_reward=final.combined[place[0]] if 0 in place else None,
            mean_reward=sum(finite) / len(finite),
        )

    def _round(self, event: StepEvent, ratio: float | None) -> list[list[int]]:
        """Score the living and choose, per prompt, who goes on (best first); None ends the run."""
        alive = list(self.live.alive)
        if not self.judge.names:
            return [self._rows(alive, index) for index in range(len(self.prompts))]
        # The last estimate is the final latent itself, and that is what gets decoded.
        is_final = ratio is None
        latents = event.latents if is_final else event.pred_original_sample
        texts = [self.prompts[row // self.num_candidates] for row in alive]
        rows = torch.tensor(alive, device=latents.device)
        verdict = self.judge.score(
            self.previewer if is_final else self.early_previewer,
            latents.index_select(0, rows),
            texts,
            self.max_images,
            self._report,
            sigma=None if is_final else event.flow_sigma,
        )
        return [
            self._sift_prompt(event, verdict, alive, index, ratio)
            for index in range(len(self.prompts))
        ]

    def _sift_prompt(
        self, event: StepEvent, verdict: Verdict, alive: list[int], index: int, ratio: float | None
    ) -> list[int]:
        rows = self._rows(alive, index)
        at = [alive.index(row) for row in rows]
        scores = {name: values[at] for name, values in verdict.scores.items()}
        combined = self._combined(scores, index, is_final=ratio is None)
        finite = [place for place, value in enumerate(combined) if math.isfinite(value)]
        if not finite:
            raise RewardError(
                f"Reward {', '.join(self.judge.names)} gave no finite score for any of the "
                f"{len(rows)} candidates of {self.prompts[index]!r} after step "
                f"{event.step_index + 1}; check the reward on a single picture."
            )
        count = self.num_outputs
        if ratio is not None:
            count = goes_on(len(rows), ratio, self.num_outputs)
        # Ties go to the lower candidate index, so the choice is the same on every run.
        best = sorted(finite, key=lambda place: (-combined[place], place))[:count]
        offset = index * self.num_candidates
        self._stages[index].append(
            Stage(
                step_index=event.step_index,
                num_inference_steps=event.num_inference_steps,
                sigma=event.sigma if ratio is not None else 0.0,
                timestep=float(event.timestep),
                alive=tuple(row - offset for row in rows),
                scores={name: tuple(values.tolist()) for name, values in scores.items()},
                combined=tuple(combined),
                kept=tuple(sorted(rows[place] - offset for place in best)),
                is_final=ratio is None,
                previews=_thumbnails(verdict, at, [row - offset for row in rows]),
            )
        )
        return [rows[place] for place in best]

    def _combined(self, scores: Mapping[str, Tensor], index: int, *, is_final: bool) -> list[float]:
        if is_final and self.rivals:
            rivals = self.rivals[index]
            scores = {name: torch.cat([rivals[name], values]) for name, values in scores.items()}
            combined = self.judge.combine(scores)[len(next(iter(rivals.values()))) :]
        else:
            combined = self.judge.combine(scores)
        values: list[float] = combined.tolist()
        return values

    def _rows(self, rows: Sequence[int], index: int) -> list[int]:
        """Those of `rows` that belong to prompt `index`, in the given order."""
        return [row for row in rows if row // self.num_candidates == index]

    def _report(self, event: str, count: int) -> None:
        if self.progress is None:
            return
        self._done[event] = self._done.get(event, 0) + count
        self.progress(event, self._done[event], self._total(event))

    def _total(self, event: str) -> int:
        per_prompt = [stage.alive for stage in self.stages]
        if event == "denoise":
            previous = [0, *(stage.step_index + 1 for stage in self.stages[:-1])]
            lengths = [s.step_index + 1 - p for s, p in zip(self.stages, previous, strict=True)]
            per_prompt = [a * n for a, n in zip(per_prompt, lengths, strict=True)]
        return sum(per_prompt) * len(self.prompts)

    def _close_segment(self, name: str, latents: Tensor | None) -> None:
        # CUDA runs ahead of Python: wait, or this part's time would be booked on the next one.
        if latents is not None and latents.is_cuda:
            torch.cuda.synchronize(latents.device)
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._mark
        self._mark = now


def _thumbnails(verdict: Verdict, at: list[int], candidates: list[int]) -> dict[int, Any]:
    if not verdict.thumbnails:
        return {}
    return {c: verdict.thumbnails[place] for c, place in zip(candidates, at, strict=True)}
