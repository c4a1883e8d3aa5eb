"""One search: draw a scale, choose among the candidates, draw the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gensift.cost import Cost, Stopwatch, peak_memory_mib
from gensift.pipelines.next_scale.pipeline import NextScaleState, convert_pictures
from gensift.pipelines.next_scale.scales import ScaleSchedule
from gensift.randomness import make_generators
from gensift.trace import PromptTrace, Stage, Trace
from samplers.autoregressive.decoding import StateDecoder, distinct_rows
from samplers.autoregressive.population import Population
from samplers.output import Progress, PromptResult, SamplerOutput
from samplers.scoring import Scorer, Scores, decode_what_fits, thumbnail

if TYPE_CHECKING:
    from samplers.autoregressive.search import NextScaleSearch, SearchPlan


@dataclass(frozen=True)
class Scored:
    """What a judge said of the candidates of one prompt.

    Attributes:
        scores: per reward, float32 `(candidates,)`.
        combined: one score each; non-finite ones are -inf.
        previews: small pictures by position, where they are kept.
    """

    scores: dict[str, Tensor]
    combined: Tensor
    previews: dict[int, Any] = field(default_factory=dict)


class SearchRun:
    """The state of one call of a search; selectors work on it.

    Attributes:
        search: whose call it is.
        model: the next-scale model.
        schedule: widths and selections.
        populations: one per prompt, in the order of the rows of the model's state.
        state: of the model.
        stopwatch: seconds per part.
    """

    def __init__(
        self,
        search: NextScaleSearch,
        model: Any,
        populations: Sequence[Population],
        plan: SearchPlan,
        progress: Progress | None,
    ) -> None:
        self.search = search
        self.model = model
        self.schedule = plan.schedule
        self.populations = populations
        self.stopwatch = Stopwatch()
        self.state: NextScaleState
        self._scorer = Scorer(search.reward, keep_previews=search.keep_previews)
        self._progress = progress or (lambda event, done, total: None)
        self._done = dict.fromkeys(("decode", "reward"), 0)
        self._total = {
            "decode": plan.cost.decodes + plan.cost.preview_decodes,
            "reward": max(plan.cost.reward_calls.values(), default=0),
        }
        # What was decoded for judges, where clusters are formed of it next.
        self._shown: tuple[int, Tensor] | None = None
        self._decodes = {"decodes": 0, "preview_decodes": 0}

    @property
    def scale(self) -> int:
        """Index of the scale that was drawn last."""
        return self.state.scale - 1

    @property
    def reduced_scale(self) -> tuple[int, int] | None:
        """The grid to decode half-drawn candidates at; None for the full one."""
        return self.search.reduced_scale(self.state.schedule)

    def run(self, scales: ScaleSchedule, arguments: Mapping[str, Any]) -> SamplerOutput:
        """Search among pictures of `scales`; `arguments` are those of the pipeline's call."""
        given = dict(arguments)
        output_type = given.pop("output_type", "pil")
        try:
            results = self._search(scales, output_type, given)
        finally:
            self.model.maybe_free_model_hooks()
        return SamplerOutput(results=results, cost=self._cost(), trace=self._trace())

    def _search(
        self, scales: ScaleSchedule, output_type: str, given: Mapping[str, Any]
    ) -> tuple[PromptResult, ...]:
        with self.stopwatch.part("draw"):
            self.state = self.model.start(
                [population.prompt for population in self.populations],
                num_images_per_prompt=[len(p.seeds) for p in self.populations],
                generator=make_generators([s for p in self.populations for s in p.seeds]),
                capacity=self._capacity(scales, 0),
                **given,
            )
        for scale in range(len(scales)):
            with self.stopwatch.part("draw"):
                self.model.step(self.state, self.search.config.max_rows)
                _finish_gpu_work(self.state.latents)
            self._progress("scale", scale + 1, len(scales))
            for selector in self.search.selectors(self):
                selector.select(self)
        return self._finish(output_type)

    def rows_of(self, index: int) -> slice:
        """The rows of one prompt's candidates."""
        start = sum(len(population.places) for population in self.populations[:index])
        return slice(start, start + len(self.populations[index].places))

    def decode(self) -> Tensor:
        """Pictures of all rows as they are now, at reduced size where the options say so."""
        if self._shown is not None and self._shown[0] == self.scale:
            return self._shown[1]
        decoder = StateDecoder(self.model, self.reduced_scale)
        pictures = self._decode_all(decoder)
        self._decodes["preview_decodes" if decoder.is_tiny else "decodes"] += self.state.rows
        self._report("decode", self.state.rows)
        return pictures

    def score(self, decoder: StateDecoder | None = None) -> list[Scored]:
        """Judge all rows; one result per prompt. Rows that came out alike are judged once."""
        is_shown = self.scale in self.schedule.cluster_scales
        decoder = decoder or StateDecoder(self.model, self.reduced_scale, is_shown)
        first, like = distinct_rows(self.state.latents, self.state.prompt_of_row)
        found = self._scorer.score(
            decoder,
            self.state.latents[first],
            [self.populations[self.state.prompt_of_row[row]].prompt for row in first],
            self._most_pictures,
            self._report,
        )
        if decoder.keeps_pictures:
            decoder.pictures = [decoder.pictures[at] for at in like]
        if is_shown:
            self._shown = self.scale, torch.stack(decoder.pictures)
        return [self._of_prompt(index, found, like) for index in range(len(self.populations))]

    def _of_prompt(self, index: int, found: Scores, like: Sequence[int]) -> Scored:
        at = like[self.rows_of(index)]
        scores = {name: values[at] for name, values in found.by_reward.items()}
        shown = [found.thumbnails[row] for row in at] if found.thumbnails else []
        return Scored(scores, self._scorer.combine(scores), dict(enumerate(shown)))

    def thumbnails(self, pictures: Tensor) -> dict[int, Any]:
        """Small pictures by position, where the trace is to hold them."""
        if not self.search.keep_previews:
            return {}
        return {at: thumbnail(picture) for at, picture in enumerate(pictures)}

    def keep(self, chosen: Sequence[Sequence[int]], scored: Sequence[Scored]) -> None:
        """Let the chosen candidates of every prompt (positions, repeats allowed) go on alone."""
        starts = [self.rows_of(index).start for index in range(len(self.populations))]
        rows: list[int] = []
        fresh: list[int | None] = []
        for start, population, positions, found in zip(
            starts, self.populations, chosen, scored, strict=True
        ):
            before = population.places
            parents, seeds = population.choose(positions, self.scale)
            moved = dict(zip(population.places, (before[at] for at in parents), strict=True))
            self._record(population, before, moved, found)
            rows += [start + parent for parent in parents]
            fresh += seeds
        with self.stopwatch.part("gather"):
            capacity = self._capacity(self.state.schedule, self.state.scale)
            self.model.gather(self.state, rows, fresh, capacity)
            _finish_gpu_work(self.state.latents)

    def _record(
        self,
        population: Population,
        before: Sequence[int],
        moved: Mapping[int, int],
        found: Scored,
    ) -> None:
        """Note a stage: `moved` says by place whose state goes on there."""
        schedule = self.state.schedule
        population.stages.append(
            Stage(
                step_index=self.scale,
                num_inference_steps=len(schedule),
                grid=schedule.scales[self.scale],
                alive=tuple(before),
                scores={name: tuple(values.tolist()) for name, values in found.scores.items()},
                combined=tuple(found.combined.tolist()),
                kept=tuple(sorted(set(moved.values()))),
                parents=tuple(moved.get(place) for place in before),
                is_final=self.state.is_finished,
                previews={before[at]: picture for at, picture in found.previews.items()},
            )
        )
        if self.search.on_stage is not None:
            index = [other is population for other in self.populations].index(True)
            self.search.on_stage(index, population.stages[-1])

    def _capacity(self, scales: ScaleSchedule, scale: int) -> int:
        """Positions that the cache fills from `scale` until candidates are chosen the next time."""
        later = [at for at in self.schedule.selections if at >= scale]
        return scales.ends[later[0] if later else -1]

    def _finish(self, output_type: str) -> tuple[PromptResult, ...]:
        decoder = StateDecoder(self.model, keeps_pictures=True)
        if self.search.reward is None:
            pictures = self._decode_all(decoder)
            self._decodes["decodes"] += len(pictures)
            scored = [Scored({}, torch.zeros(0)) for _ in self.populations]
        else:
            scored = self.score(decoder)
            pictures = torch.stack(decoder.pictures)
        results = []
        for index, (population, found) in enumerate(zip(self.populations, scored, strict=True)):
            images = convert_pictures(pictures[self.rows_of(index)], output_type)
            results.append(self._result(population, found, images))
        return tuple(results)

    def _decode_all(self, decoder: StateDecoder) -> Tensor:
        parts: list[Tensor] = []
        done = 0
        with self.stopwatch.part("decode"):
            while done < self.state.rows:
                latents = self.state.latents[done:]
                parts.append(decode_what_fits(decoder, latents, self._most_pictures))
                done += len(parts[-1])
            _finish_gpu_work(self.state.latents)
        return torch.cat(parts)

    @property
    def _most_pictures(self) -> int:
        """Pictures decoded at a time: no more than are finished, or memory would peak here."""
        finished = sum(population.size_at(1) for population in self.populations)
        return self.search.config.max_rows or finished

    def _result(self, population: Population, found: Scored, images: Any) -> PromptResult:
        places = population.places
        rewards = found.combined.tolist()
        if not rewards:
            return PromptResult(
                prompt=population.prompt,
                samples=list(images),
                rewards=(),
                all_rewards=(),
                seeds=tuple(population.seeds[place] for place in places),
            )
        ranking = sorted(range(len(places)), key=lambda at: (-rewards[at], at))
        best = ranking[: self.search.config.num_outputs]
        kept = {places[at]: places[at] for at in best}
        self._record(population, places, kept, found)
        is_first_left = places[0] == 0 and 0 in population.originals
        return PromptResult(
            prompt=population.prompt,
            samples=[images[at] for at in best],
            rewards=tuple(rewards[at] for at in best),
            all_rewards=tuple(
                {name: float(values[at]) for name, values in found.scores.items()} for at in best
            ),
            seeds=tuple(population.seeds[places[at]] for at in best),
            first_reward=rewards[0] if is_first_left else None,
            mean_reward=sum(rewards) / len(rewards),
        )

    def _cost(self) -> Cost:
        scorer = self._scorer
        return Cost(
            tokens=self.state.tokens,
            decodes=scorer.decodes + self._decodes["decodes"],
            preview_decodes=scorer.preview_decodes + self._decodes["preview_decodes"],
            reward_calls=scorer.reward_calls,
            seconds=_added(self.stopwatch.seconds, scorer.stopwatch.seconds),
            peak_memory_mib=peak_memory_mib(self.state.latents.device),
        )

    def _trace(self) -> Trace:
        return Trace(
            prompts=tuple(
                PromptTrace(
                    prompt=population.prompt,
                    prompt_index=index,
                    seeds=tuple(population.seeds),
                    stages=tuple(population.stages),
                )
                for index, population in enumerate(self.populations)
            )
        )

    def _report(self, event: str, count: int) -> None:
        self._done[event] += count
        self._progress(event, self._done[event], self._total[event])


def _added(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in {**left, **right}}


def _finish_gpu_work(tensor: Tensor) -> None:
    # Parts of the time are told apart only when each one's work is over.
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
