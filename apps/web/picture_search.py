"""The work behind the Pictures tab: search, watched, and leave a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps.jobs.results import write_prompt
from apps.modalities.picture.modality import PICTURE
from apps.web.app_context import AppContext, Session, prepared, run_folder
from apps.web.live import LiveView
from apps.web.previews import forming_pictures
from apps.web.request_queue import Task
from apps.web.requests import Request
from apps.web.snippets import snippet
from gensift.cost import Cost
from gensift.runs import PLAN
from gensift.trace import PromptTrace
from samplers.output import SamplerOutput

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class FoundPicture:
    """What a search for pictures leaves.

    Attributes:
        folder: its run folder.
        prompt: the prompt.
        picture: the winner.
        seed: that reproduces it, where a plain call does.
        reward: of the winner.
        first_reward: of the first candidate, where it was finished.
        cost, planned: spent and planned.
        rows_per_candidate: denoiser rows that one candidate takes from noise to picture; 0 where
            the model has no denoiser.
        trace: of the search.
        command: that does the same on the command line.
        code: Python that makes the winner by a plain pipeline call; None where none does.
    """

    folder: Path
    prompt: str
    picture: Image
    seed: int
    reward: float
    first_reward: float | None
    cost: Cost
    planned: Cost
    rows_per_candidate: int
    trace: PromptTrace
    command: str
    code: str | None


def search_pictures(
    context: AppContext, request: Request, task: Task, view: LiveView
) -> FoundPicture:
    """Search, telling `view` how it goes; files are written only once the search is over.

    Raises:
        Cancelled: `task` was stopped; the pipeline is as before and no file is left.
        GensiftError: the request cannot be carried out.
    """
    view.say(f"Loading {request.model or 'the model'}")
    with prepared(context, request) as session:
        task.check()
        PICTURE.check_sampler(request.sampler, session.job.modality.name)
        plan = session.plan
        view.plan(session.counts.seeds, plan.cost.nfe)
        output = _watched(session, view)
        view.say("Writing the results")
        # What a step of one candidate costs, times the length of the loop.
        steps = getattr(plan, "num_steps", 0) / max(1, view.candidate_steps)
        return _write(context, session, output, round(plan.cost.nfe * steps))


def _watched(session: Session, view: LiveView) -> SamplerOutput:
    job = session.job
    with forming_pictures(
        job.pipeline,
        job.prompts[0],
        job.call,
        session.counts.candidates,
        view.on_previews,
        lambda: view.takes_previews,
    ):
        return session.run(view.on_progress, view.on_stage)


def _write(
    context: AppContext, session: Session, output: SamplerOutput, rows_per_candidate: int
) -> FoundPicture:
    job, plan = session.job, session.plan
    (result,), (trace,) = output.results, output.trace.prompts
    with run_folder(context, session) as folder:
        folder.write_json(PLAN, plan.to_dict())
        folder.append_result(write_prompt(folder, job, output, 0))
        folder.write_summary({**output.cost.to_dict(), "planned": plan.cost.to_dict()})
    return FoundPicture(
        folder=folder.path,
        prompt=result.prompt,
        picture=result.samples[0],
        seed=result.seeds[0],
        reward=result.rewards[0],
        first_reward=result.first_reward,
        cost=output.cost,
        planned=plan.cost,
        rows_per_candidate=rows_per_candidate,
        trace=trace,
        command=job.command,
        code=None
        if job.pipeline_call is None
        else snippet(job.config["model"], job.pipeline, result, job.pipeline_call),
    )
