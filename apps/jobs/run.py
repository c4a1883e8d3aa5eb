"""Running a job: every prompt that is not finished yet, each one safe on disk before the next."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from apps.console import say
from apps.jobs.division import Round, divide
from apps.jobs.preparation import Job, is_reproducible
from apps.jobs.progress import SearchProgress, show_progress
from apps.jobs.results import write_prompt, write_shared_prompt
from apps.jobs.streaming import show_texts
from gensift import __version__
from gensift.cost import Cost
from gensift.errors import DeviceError, GensiftError, ProcessLostError, RunFolderError
from gensift.randomness import candidate_seeds
from gensift.runs import LOCK, PLAN, SUMMARY, RunFiles, RunFolder
from samplers.exchange import ALONE, Exchange

PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "accelerate", "numpy")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run found, earlier finished prompts included.

    Attributes:
        folder: the run folder.
        lines: one results line per prompt, in order.
        resumed: indices of prompts that an earlier run had finished.
        planned: cost planned for all prompts.
        spent: cost spent on all prompts, by this run and earlier ones.
        is_reproducible: whether a seed in a plain pipeline call gives a sample again.
        is_text: whether samples are texts.
        is_action: whether samples are episodes of a robot.
    """

    folder: str
    lines: list[dict[str, Any]]
    resumed: set[int]
    planned: Cost
    spent: Cost
    is_reproducible: bool = True
    is_text: bool = False
    is_action: bool = False


@dataclass(frozen=True)
class Counts:
    """Candidates of a prompt that are drawn to the end, and seeds: one for each that is begun."""

    candidates: int
    seeds: int

    @classmethod
    def of(cls, plan: Any) -> Counts:
        """Those of a plan; most searches begin as many candidates as they name."""
        return cls(plan.num_candidates, getattr(plan, "num_seeds", plan.num_candidates))


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
    with _open_folder(job) as folder:
        finished = _say_what_is_done(job, folder)
        plan = _fix_plan(job, folder)
        planned = times(plan.cost, len(job.prompts))
        counts = Counts.of(plan)
        exchange.gather((counts, finished))
        try:
            with show_progress(
                len(job.prompts), len(finished), is_shown=not job.is_streamed
            ) as progress:
                for line in _search(job, folder, counts, finished, progress, exchange):
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
        _combine_traces(job, folder)
        folder.write_summary({**spent.to_dict(), "planned": planned.to_dict()})
    return Outcome(
        folder=str(folder.path),
        lines=lines,
        resumed=finished,
        planned=planned,
        spent=spent,
        is_reproducible=is_reproducible(job.sampler_class),
        is_text=job.sampler_class.modality == "text",
        is_action=job.sampler_class.modality == "action",
    )


def _help(job: Job, exchange: Exchange) -> None:
    """The part of every other process: it draws and writes pictures, and sends scores."""
    agreed: tuple[Counts, set[int]] = (Counts(0, 0), set())
    counts, finished = exchange.gather(agreed)[0]
    with show_progress(0, 0) as progress:
        for _ in _search(job, RunFiles(job.folder), counts, finished, progress, exchange):
            pass


def times(cost: Cost, count: int) -> Cost:
    """The cost of doing the same `count` times."""
    return sum([cost] * (count - 1), cost)


def versions() -> dict[str, str]:
    """Versions of what decides the results."""
    found = {"gensift": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _open_folder(job: Job) -> Iterator[RunFolder]:
    """Open the run folder, and take away again what a run that came to nothing has begun."""
    was_run = (job.folder / SUMMARY).exists()
    missing = [p for p in (job.folder, *job.folder.parents) if not p.exists()]
    with RunFolder(
        job.folder,
        config=job.config,
        command=job.command,
        pipeline_call=job.pipeline_call,
        versions=versions(),
    ) as folder:
        try:
            yield folder
        except GensiftError as error:
            # A lost process is no mistake in the request: the same command shall go on.
            is_refused = not isinstance(error, ProcessLostError)
            if is_refused and not was_run and not folder.results():
                _discard(folder, missing)
            raise


def _discard(folder: RunFolder, made: Sequence[Path]) -> None:
    """Remove what the run has begun: its files, and the folders that it `made`, innermost first."""
    for name in (SUMMARY, PLAN, LOCK):
        (folder.path / name).unlink(missing_ok=True)
    if made:
        shutil.rmtree(made[0], ignore_errors=True)
    for parent in made[1:]:
        parent.rmdir()


def _say_what_is_done(job: Job, folder: RunFolder) -> set[int]:
    for line in folder.results():
        index = line["prompt_index"]
        if index < len(job.prompts) and line["prompt"] != job.prompts[index]:
            raise RunFolderError(
                f"{folder.path} holds a result for prompt {index}, {line['prompt']!r}, but now it "
                f"is {job.prompts[index]!r}; add new prompts at the end, or give another --output."
            )
    finished = folder.finished(job.prompts)
    if finished:
        say(
            f"Resuming {folder.path}: {len(finished)} of {len(job.prompts)} prompts are finished "
            "and skipped."
        )
    _number_first_trace(job, folder)
    return finished


def _number_first_trace(job: Job, folder: RunFolder) -> None:
    """A folder that began with a single prompt holds that trace without a number."""
    for kind in ("json", "png"):
        single, numbered = (folder.path / f"{name}.{kind}" for name in ("trace", "trace-0000"))
        if len(job.prompts) > 1 and single.exists() and not numbered.exists():
            single.replace(numbered)


def _fix_plan(job: Job, folder: RunFolder) -> Any:
    """Return the plan for one prompt, with the number of candidates fixed.

    A budget in seconds is measured, so it may choose differently next time; the first choice is
    kept in the folder, for a resumed run to give the same results.
    """
    count = folder.read_plan()
    is_new = count is None
    if count is None:
        with memory_advice():
            plan = job.make_sampler().plan(job.pipeline, job.prompts[0], **job.call)
        count = plan.num_candidates
    plan = sampler_of(job, count).plan(job.pipeline, job.prompts[0], **job.call)
    if is_new:
        folder.write_json(PLAN, plan.to_dict())
    return plan


def sampler_of(job: Job, num_candidates: int, **changes: Any) -> Any:
    """The sampler of a job, its number of candidates settled."""
    fixed = {"num_candidates": num_candidates, "budget": None}
    known = {name: value for name, value in fixed.items() if name in job.sampler_options}
    return job.make_sampler(**known, **changes)


def _search(
    job: Job,
    files: RunFiles,
    counts: Counts,
    finished: set[int],
    progress: SearchProgress,
    exchange: Exchange,
) -> Iterator[dict[str, Any]]:
    """Work on what is not finished; yields the lines of prompts whose files are all written."""
    todo = [index for index in range(len(job.prompts)) if index not in finished]
    can_share = getattr(job.sampler_class, "shares_candidates", False)
    for part in divide(todo, exchange.size, can_share=can_share):
        work = _search_shared if part.is_shared else _search_dealt
        yield from work(job, files, counts, part, progress, exchange)


def _search_dealt(
    job: Job,
    files: RunFiles,
    counts: Counts,
    part: Round,
    progress: SearchProgress,
    exchange: Exchange,
) -> list[dict[str, Any]]:
    line = None
    if exchange.rank < len(part.prompts):
        sampler = sampler_of(job, counts.candidates)
        index = part.prompts[exchange.rank]
        line = _search_one(job, files, sampler, counts, index, progress)
    return [line for line in exchange.gather(line) if line is not None]


def _search_shared(
    job: Job,
    files: RunFiles,
    counts: Counts,
    part: Round,
    progress: SearchProgress,
    exchange: Exchange,
) -> list[dict[str, Any]]:
    (index,) = part.prompts
    sampler = sampler_of(job, counts.candidates, exchange=exchange)
    output = _draw(job, sampler, counts, index, progress)
    return [write_shared_prompt(files, job.config, output, index, _stem(job, index), exchange)]


def _search_one(
    job: Job,
    files: RunFiles,
    sampler: Any,
    counts: Counts,
    index: int,
    progress: SearchProgress,
) -> dict[str, Any]:
    output = _draw(job, sampler, counts, index, progress)
    return write_prompt(files, job.config, output, index, _stem(job, index))


def _draw(job: Job, sampler: Any, counts: Counts, index: int, progress: SearchProgress) -> Any:
    seeds = [candidate_seeds(job.seed, index, counts.seeds)]
    arguments: dict[str, Any] = {"seeds": seeds, "progress": progress, **job.call}
    with memory_advice():
        if not job.is_streamed:
            return sampler(job.pipeline, [job.prompts[index]], **arguments)
        with show_texts(job.prompts[index]) as on_step:
            return sampler(job.pipeline, [job.prompts[index]], on_step=on_step, **arguments)


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


def _stem(job: Job, index: int) -> str:
    return "trace" if len(job.prompts) == 1 else f"trace-{index:04d}"


def _combine_traces(job: Job, folder: RunFolder) -> None:
    """Join the traces of all prompts; while the run lasts each has a file of its own.

    One growing file would be written again for every prompt.
    """
    if len(job.prompts) == 1:
        return
    files = [folder.path / f"{_stem(job, index)}.json" for index in range(len(job.prompts))]
    found = [json.loads(file.read_bytes()) for file in files if file.exists()]
    folder.write_json("trace.json", {"prompts": [p for part in found for p in part["prompts"]]})
