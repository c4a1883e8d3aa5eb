"""What all tabs of the page share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from apps.jobs.folder import versions
from apps.jobs.job import Job, default_folder
from apps.jobs.preparation import prepare
from apps.jobs.run import Counts, memory_advice
from apps.web.models import Models
from apps.web.options import AppOptions
from apps.web.request_queue import RequestQueue
from apps.web.requests import Request, check_plan, command_line, generate_options
from apps.web.run_store import RunStore
from gensift.randomness import candidate_seeds
from gensift.runs import RunFolder
from samplers.output import OnStage, Progress, SamplerOutput

if TYPE_CHECKING:
    from samplers.base import OnStep, Plan


@dataclass
class AppContext:
    """What the requests to an app share.

    Attributes:
        options: as the app was started.
        models: the loaded models.
        request_queue: what works on requests, one at a time.
        root: folder of the run folders.
        runs: what is in it.
    """

    options: AppOptions
    models: Models = field(init=False)
    request_queue: RequestQueue = field(init=False)
    root: Path = field(init=False)
    runs: RunStore = field(init=False)
    _is_warm: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.models = Models(self.options)
        self.request_queue = RequestQueue(self.options.max_waiting, self.options.max_seconds)
        self.root = Path(self.options.output).resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.runs = RunStore(self.root)

    def warm_up(self) -> None:
        """Load the model of the first tab, once, while the first visitor still reads."""
        if not self._is_warm:
            self._is_warm = True
            self.request_queue.when_idle(self._load_first)

    def _load_first(self) -> None:
        with prepared(self, Request(prompt="a red circle")):
            pass

    def new_folder(self, kind: str, text: str) -> Path:
        """A run folder that nobody else has; it is not made yet."""
        slug = default_folder({"sampler": kind}, [text]).name
        return self.root / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug[:60]}-{secrets.token_hex(3)}"


@dataclass(frozen=True, kw_only=True)
class Session:
    """A search that is ready to run.

    Attributes:
        request: what was asked for.
        job: the same, settled.
        plan: what the search will do.
        counts: candidates and seeds.
    """

    request: Request
    job: Job
    plan: Plan
    counts: Counts

    def run(
        self,
        progress: Progress | None = None,
        on_stage: OnStage | None = None,
        on_step: OnStep | None = None,
    ) -> SamplerOutput:
        """Search.

        Args:
            progress: called with steps, decodes and rewards done so far.
            on_stage: shown every stage as it happens.
            on_step: shown what forms after each step.
        """
        job = self.job
        sampler = job.sampler_of(self.counts.candidates)
        sampler.on_stage = on_stage
        seeds = [candidate_seeds(job.seed, 0, self.counts.seeds)]
        with memory_advice():
            return sampler(
                job.pipeline,
                list(job.prompts),
                seeds=seeds,
                progress=progress,
                on_step=on_step,
                **job.call,
            )


@contextmanager
def prepared(context: AppContext, request: Request) -> Iterator[Session]:
    """Load what a request needs and plan its search; the pipeline is clean again on exit.

    Raises:
        GensiftError: something does not fit, or more is planned than is allowed here.
    """
    options = generate_options(request, context.options)
    job = prepare(options, [request.prompt], command_line(request), load=context.models.load)
    try:
        with memory_advice():
            plan = job.plan_of(job.make_sampler())
        check_plan(plan, context.options)
        yield Session(request=request, job=job, plan=plan, counts=Counts.of(plan))
    finally:
        if request.cache is not None:
            from caches.enable import disable_cache

            disable_cache(job.pipeline)


@contextmanager
def run_folder(context: AppContext, session: Session) -> Iterator[RunFolder]:
    """A new run folder for the results of a search that is over."""
    job = session.job
    path = context.new_folder(session.request.sampler, session.request.prompt)
    with RunFolder(
        path,
        config=job.config,
        command=job.command,
        pipeline_call=job.pipeline_call,
        versions=versions(),
    ) as folder:
        yield folder
