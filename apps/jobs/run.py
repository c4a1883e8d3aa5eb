"""Running a job: every prompt that is not finished yet, each one safe on disk before the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.console import say
from apps.jobs.division import Round, divide
from apps.jobs.folder import combine_traces, open_folder, say_what_is_done, versions
from apps.jobs.job import Job
from apps.jobs.progress import SearchProgress, show_progress
from apps.jobs.results import write_prompt, write_shared_prompt
from gensift.cost import Cost
from gensift.errors import DeviceError, ProcessLostError
from gensift.protocols import JsonObject
from gensift.runs import PLAN, RunFiles, RunFolder
from samplers.exchange import ALONE, Exchange
from samplers.output import SamplerOutput

if TYPE_CHECKING:
    from apps.modalities.registry import AnyModality
    from samplers.base import Plan

__all__ = ["Counts", "Outcome", "Planned", "memory_advice", "plan_job", "run_job", "versions"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run found, earlier finished prompts included.

    Attributes:
        folder: the run folder.
        lines: one results line per prompt, in order.
        resumed: indices of prompts that an earlier run had finished.
        planned: cost planned for all prompts.
        spent: cost spent on all prompts, by this run and earlier ones.
        modality: the kind of samples.
        is_reproducible: whether a seed in a plain pipeline call gives a sample again.
    """

    folder: str
    lines: list[JsonObject]
    resumed: set[int]
    planned: Cost
    spent: Cost
    modality: AnyModality
    is_reproducible: bool = True


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run would do.

    Attributes:
        plan: for one prompt.
        cost: of all prompts.
    """

    plan: Plan
    cost: Cost


@dataclass(frozen=True)
class Counts:
    """Candidates of a prompt that are drawn to the end, and seeds: one for each that is begun."""

    candidates: int
    seeds: int

    @classmethod
    def of(cls, plan: Plan) -> Counts:
        """Those of a plan."""
        return cls(plan.num_candidates, plan.seeds_per_prompt)


def plan_job(job: Job, exchange: Exchange = ALONE) -> Planned | None:
    """What `job` would do; None in all processes but the first."""
    if exchange.rank > 0:
        return None
    plan = job.plan_of(job.make_sampler())
    return Planned(plan=plan, cost=times(plan.cost, len(job.prompts)))


def run_job(job: Job, exchange: Exchange = ALONE) -> Outcome | None:
    """Run `job`, or what is left of it, together with the other processes of `exchange`.

    Returns:
        What was found; None in all processes but the first.

    Raises:
        GensiftError: nothing new stays behind if that happens before the first prompt is finished.
        KeyboardInterrupt: after saying how to go on.
    """
    try:
        if exchange.rank == 0:
            return _lead(job, exchange)
        _help(job, exchange)
        return None
    except ProcessLostError as error:
        raise ProcessLostError(
            f"{error} Finished prompts are safe in {job.folder}; the same command goes on from "
            "there."
        ) from error


def _lead(job: Job, exchange: Exchange) -> Outcome:
    """The part of the first process, which alone holds the folder and speaks."""
    with open_folder(job) as folder:
        finished = say_what_is_done(job, folder)
        plan = _fix_plan(job, folder)
        planned = times(plan.cost, len(job.prompts))
        counts = Counts.of(plan)
        exchange.gather((counts, finished))
        try:
            with show_progress(
                len(job.prompts), len(finished), is_shown=not job.is_streamed
            ) as progress:
                for line in Search(job, folder, counts, progress, exchange).lines(finished):
                    folder.append_result(line)
                    progress.finish_prompt(line["prompt"], line["samples"][0]["reward"])
        except KeyboardInterrupt:
            done = len(folder.finished(job.prompts))
            say(
                f"{done} of {len(job.prompts)} prompts are finished in {folder.path}; "
                "the same command goes on from there."
            )
            raise
        lines = [line for line in folder.results() if line["prompt_index"] < len(job.prompts)]
        spent = sum((Cost.from_dict(line["cost"]) for line in lines), Cost())
        combine_traces(job, folder)
        folder.write_summary({**spent.to_dict(), "planned": planned.to_dict()})
    return Outcome(
        folder=str(folder.path),
        lines=lines,
        resumed=finished,
        planned=planned,
        spent=spent,
        modality=job.modality,
        is_reproducible=job.sampler_class.is_reproducible,
    )


def _help(job: Job, exchange: Exchange) -> None:
    """The part of every other process: it draws and writes samples, and sends scores."""
    agreed: tuple[Counts, set[int]] = (Counts(0, 0), set())
    counts, finished = exchange.gather(agreed)[0]
    with show_progress(0, 0) as progress:
        for _ in Search(job, RunFiles(job.folder), counts, progress, exchange).lines(finished):
            pass


def times(cost: Cost, count: int) -> Cost:
    """The cost of doing the same `count` times."""
    return sum([cost] * (count - 1), cost)


def _fix_plan(job: Job, folder: RunFolder) -> Plan:
    """Return the plan for one prompt, with the number of candidates fixed.

    A budget in seconds is measured, so it may choose differently next time; the first choice is
    kept in the folder, for a resumed run to give the same results.
    """
    count = folder.read_plan()
    is_new = count is None
    if count is None:
        with memory_advice():
            count = job.plan_of(job.make_sampler()).num_candidates
    plan = job.plan_of(job.sampler_of(count))
    if is_new:
        folder.write_json(PLAN, plan.to_dict())
    return plan


@dataclass(frozen=True)
class Search:
    """The work of one process on the prompts of a job.

    Attributes:
        job: whose prompts.
        files: of the run.
        counts: candidates and seeds of each prompt.
        progress: what shows how far it is.
        exchange: the processes that work together.
    """

    job: Job
    files: RunFiles
    counts: Counts
    progress: SearchProgress
    exchange: Exchange

    def lines(self, finished: set[int]) -> Iterator[JsonObject]:
        """Work on what is not `finished`; yields the lines of prompts whose files are written."""
        todo = [index for index in range(len(self.job.prompts)) if index not in finished]
        can_share = self.job.sampler_class.shares_candidates
        for part in divide(todo, self.exchange.size, can_share=can_share):
            index = part.prompt_of(self.exchange.rank)
            output = None if index is None else self.draw(index, is_shared=part.is_shared)
            yield from self._written(part, index, output)

    def draw(self, index: int, *, is_shared: bool) -> SamplerOutput:
        """The samples of one prompt, or this process's share of them."""
        job, prompt = self.job, self.job.prompts[index]
        sharing = {"exchange": self.exchange} if is_shared else {}
        sampler = job.sampler_of(self.counts.candidates, **sharing)
        arguments: JsonObject = {"progress": self.progress, **job.call, **job.row(index).call}
        arguments["seeds"] = [job.row(index).seeds(job.seed, index, self.counts.seeds)]
        with ExitStack() as stack:
            stack.enter_context(memory_advice())
            if job.is_streamed:
                arguments["on_step"] = stack.enter_context(job.modality.show_forming(prompt))
            return sampler(job.pipeline, [prompt], **arguments)

    def _written(
        self, part: Round, index: int | None, output: SamplerOutput | None
    ) -> list[JsonObject]:
        line: JsonObject | None = None
        if index is not None and output is not None:
            if part.is_shared:
                return [write_shared_prompt(self.files, self.job, output, index, self.exchange)]
            line = write_prompt(self.files, self.job, output, index)
        return [line for line in self.exchange.gather(line) if line is not None]


@contextmanager
def memory_advice() -> Iterator[None]:
    """Say what to lower where memory runs out inside the block."""
    # Encoders and decoders can run out as well; for the denoiser the row gate has retried already.
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "Out of memory; lower --max-rows or --num-candidates, use a smaller --dtype, or "
            "give --cpu-offload."
        ) from error
