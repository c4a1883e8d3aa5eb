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
from gensift.denoising.observer import StepEvent, keep_rows
from gensift.errors import RewardError
from gensift.trace import PromptTrace, Stage, Trace
from samplers.diffusion.preview import Previewer
from samplers.diffusion.row_gate import LiveRows, RowGate
from samplers.diffusion.schedule import Checkpoint, goes_on
from samplers.diffusion.scores import RoundScores, merged
from samplers.exchange import ALONE, Exchange, own_candidates
from samplers.output import OnStage, PlannedStage, Progress, PromptResult
from samplers.scoring import Scorer


class NothingLeft(Exception):
    """No candidate of this process is alive, so its pipeline call need not go on."""


@dataclass
class Sift:
    """The state of a search over `len(prompts)` x `num_candidates` rows, prompt-major.

    Rows are numbered over all processes; the pipeline of this one has just its own among them.

    Attributes:
        prompts: one per group of rows.
        seeds: per prompt, the seed of each candidate.
        checkpoints: where to prune.
        num_outputs: finished candidates handed on per prompt.
        judge: decodes and scores.
        previewer: decodes finished latents of this pipeline call.
        early_previewer: decodes early estimates; the same, or one with a tiny decoder.
        live: the rows of this pipeline call that are still computed.
        max_images: pictures decoded and scored at a time.
        progress: told of steps, decodes and rewards.
        on_stage: shown each scoring.
        exchange: with whom the candidates are shared.
        rivals: per prompt, scores of candidates finished before this call, among which the
            finished ones of this call are ranked; none by default.
    """

    prompts: Sequence[str]
    seeds: Sequence[Sequence[int]]
    checkpoints: Sequence[Checkpoint]
    num_outputs: int
    scorer: Scorer
    previewer: Previewer
    early_previewer: Previewer
    live: LiveRows
    stages: Sequence[PlannedStage]
    max_images: int | None = None
    progress: Progress | None = None
    on_stage: OnStage | None = None
    exchange: Exchange = ALONE
    incumbents: Sequence[Mapping[str, Tensor]] = ()
    order: list[int] = field(default_factory=list, init=False)
    _stages: list[list[Stage]] = field(init=False)
    _seconds: dict[str, float] = field(default_factory=dict, init=False)
    _done: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._stages = [[] for _ in self.prompts]
        self._ratios = {point.step_index: point.keep for point in self.checkpoints}
        self._own = own_candidates(self.exchange, self.num_candidates)
        self._mark = time.perf_counter()

    @property
    def num_candidates(self) -> int:
        """Candidates per prompt."""
        return len(self.seeds[0])

    def before_step(self, event: StepEvent) -> Sequence[int] | None:
        """Observer of the step to come: the row whose place each row takes; None for its own."""
        return None

    def on_step(self, event: StepEvent) -> Tensor | None:
        """Observer of the scheduler: prune, judge, or just count."""
        self._report("denoise", len(self.live.alive))
        if event.step_index in self._ratios:
            self._close_segment("denoise", event.latents)
            kept = self._places(self._round(event, self._ratios[event.step_index]))
            self._show_stages()
            if not kept:
                raise NothingLeft
            self.live.prune(kept)
            self._mark = time.perf_counter()
        if not event.is_last:
            return None
        self._close_segment("denoise", event.latents)
        self.order = self._round(event, None)
        self._show_stages()
        self._mark = time.perf_counter()
        kept = self._places(self.order)
        if not kept:
            raise NothingLeft
        return keep_rows(event.latents, kept, self.live.num_rows)

    def join_without_candidates(self) -> None:
        """Take part in the decisions that are still to come, without a candidate of one's own."""
        ratios = [*self._ratios.values(), None]
        for ratio in ratios[len(self._stages[0]) :] if self.scorer.names else ():
            self.order = self._decide(None, ratio)
        if not self.scorer.names:
            self.order = self._everyone()
        self._mark = time.perf_counter()

    def finish(self) -> None:
        """Call when the pipeline has returned: the rest of its time was the last decode."""
        self._close_segment("hand over", None)

    def cost(self, gates: Sequence[RowGate], device: Any) -> Cost:
        """What was spent; the pipeline's own decode of the outputs is included."""
        seconds = self._seconds | self.scorer.stopwatch.seconds
        return Cost(
            nfe=sum(gate.rows_run for gate in gates),
            denoiser_calls=sum(gate.calls for gate in gates),
            decodes=self.scorer.decodes + len(self._places(self.order)),
            preview_decodes=self.scorer.preview_decodes,
            reward_calls=dict(self.scorer.reward_calls),
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
            rows = self._rows(self.order, index)
            picked = [row - index * self.num_candidates for row in rows]
            count = len(self._places(rows))
            own = self._among_picked(picked, samples[start : start + count])
            results.append(self._result(index, prompt, picked, own))
            start += count
        return tuple(results)

    def _among_picked(self, picked: list[int], own: Sequence[Any]) -> Sequence[Any]:
        """The samples of this process in their places; None where another one has the sample."""
        if len(own) == len(picked):
            return own
        left = iter(own)
        return [next(left) if candidate in self._own else None for candidate in picked]

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

    def _round(self, event: StepEvent, ratio: float | None) -> list[int]:
        """Score the living and choose who goes on, best first per prompt; None ends the run."""
        if not self.scorer.names:
            return self._everyone()
        # The last estimate is the final latent itself, and that is what gets decoded.
        is_final = ratio is None
        latents = event.latents if is_final else event.pred_original_sample
        alive = list(self.live.alive)
        rows = [self._row(place) for place in alive]
        found = self.scorer.score(
            self.previewer if is_final else self.early_previewer,
            latents.index_select(0, torch.tensor(alive, device=latents.device)),
            [self.prompts[row // self.num_candidates] for row in rows],
            self.max_images,
            self._report,
            sigma=None if is_final else event.flow_sigma,
        )
        own = RoundScores(
            step_index=event.step_index,
            num_inference_steps=event.num_inference_steps,
            sigma=0.0 if is_final else event.sigma,
            timestep=float(event.timestep),
            rows=tuple(rows),
            scores={name: tuple(values.tolist()) for name, values in found.by_reward.items()},
            previews=dict(zip(rows, found.thumbnails, strict=False)),
        )
        return self._decide(own, ratio)

    def _decide(self, own: RoundScores | None, ratio: float | None) -> list[int]:
        """Choose among the living of all processes; each of them comes to the same decision."""
        if self.exchange.size == 1:
            everyone = merged([own])
        else:
            with self.scorer.stopwatch.part("wait"):
                everyone = merged(self.exchange.gather(own and own.without_previews()))
        previews = own.previews if own is not None else {}
        return [
            row
            for index in range(len(self.prompts))
            for row in self._sift_prompt(everyone, previews, index, ratio)
        ]

    def _sift_prompt(
        self, found: RoundScores, previews: Mapping[int, Any], index: int, ratio: float | None
    ) -> list[int]:
        rows = self._rows(found.rows, index)
        at = [found.rows.index(row) for row in rows]
        scores = {n: torch.tensor([values[i] for i in at]) for n, values in found.scores.items()}
        combined = self._combined(scores, index, is_final=ratio is None)
        finite = [place for place, value in enumerate(combined) if math.isfinite(value)]
        if not finite:
            raise RewardError(
                f"Reward {', '.join(self.scorer.names)} gave no finite score for any of the "
                f"{len(rows)} candidates of {self.prompts[index]!r} after step "
                f"{found.step_index + 1}; check the reward on a single picture."
            )
        count = self.num_outputs
        if ratio is not None:
            count = goes_on(len(rows), ratio, self.num_outputs)
        # Ties go to the lower candidate index, so the choice is the same on every run.
        best = sorted(finite, key=lambda place: (-combined[place], place))[:count]
        offset = index * self.num_candidates
        self._stages[index].append(
            Stage(
                step_index=found.step_index,
                num_inference_steps=found.num_inference_steps,
                sigma=found.sigma,
                timestep=found.timestep,
                alive=tuple(row - offset for row in rows),
                scores={name: tuple(values.tolist()) for name, values in scores.items()},
                combined=tuple(combined),
                kept=tuple(sorted(rows[place] - offset for place in best)),
                is_final=ratio is None,
                previews={row - offset: previews[row] for row in rows if row in previews},
            )
        )
        return [rows[place] for place in best]

    def _everyone(self) -> list[int]:
        """All rows: nothing is pruned where nothing judges."""
        return list(range(self.num_candidates * len(self.prompts)))

    def _row(self, place: int) -> int:
        """The number over all processes of a row of this pipeline call."""
        index, at = divmod(place, len(self._own))
        return index * self.num_candidates + self._own[at]

    def _places(self, rows: Sequence[int]) -> list[int]:
        """Where in this pipeline call those of `rows` are that are this process's, in order."""
        place = {self._row(i): i for i in range(len(self._own) * len(self.prompts))}
        return [place[row] for row in rows if row in place]

    def _combined(self, scores: Mapping[str, Tensor], index: int, *, is_final: bool) -> list[float]:
        if is_final and self.incumbents:
            incumbents = self.incumbents[index]
            scores = {
                name: torch.cat([incumbents[name], values]) for name, values in scores.items()
            }
            combined = self.scorer.combine(scores)[len(next(iter(incumbents.values()))) :]
        else:
            combined = self.scorer.combine(scores)
        values: list[float] = combined.tolist()
        return values

    def _rows(self, rows: Sequence[int], index: int) -> list[int]:
        """Those of `rows` that belong to prompt `index`, in the given order."""
        return [row for row in rows if row // self.num_candidates == index]

    def _show_stages(self) -> None:
        """Tell of the scoring just given, once it is complete; there is none without a reward."""
        if self.on_stage is None or not self.scorer.names:
            return
        for index, prompt in enumerate(self.trace().prompts):
            self.on_stage(index, prompt.stages[-1])

    def _report(self, event: str, count: int) -> None:
        if self.progress is None:
            return
        # The others are about as far; what they have done is not asked for at every step.
        total = self._total(event)
        done = min(total, self._done.get(event, 0) + count * self.exchange.size)
        self._done[event] = done
        self.progress(event, done, total)

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
