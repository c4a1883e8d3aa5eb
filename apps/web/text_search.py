"""The work behind the Text tab: write texts, keep what they looked like at every step."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apps.jobs.results import write_prompt
from apps.modalities.text.modality import TEXT
from apps.modalities.text.streaming import TextStep
from apps.web.app_context import AppContext, Session, prepared, run_folder
from apps.web.request_queue import Task
from apps.web.requests import Request
from apps.web.run_store import STEPS
from gensift.cost import Cost
from samplers.output import SamplerOutput

PLAIN = "decode"
"""The sampler that others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The texts of one sampler, in the order they were drawn.

    Attributes:
        folder: run folder.
        sampler: name.
        prompt: the prompt.
        texts: one per candidate.
        rewards: one per text; empty without a reward.
        scorer: name of the reward, or empty.
        cost: of all.
        command: that does the same on the command line.
    """

    folder: Path
    sampler: str
    prompt: str
    texts: tuple[str, ...]
    rewards: tuple[float, ...]
    scorer: str
    cost: Cost
    command: str


@dataclass(frozen=True)
class TextSnapshot:
    """Texts as they stand.

    Attributes:
        phase: in words.
        step: steps taken.
        texts: with a low line for every mask.
        done, total: tokens that are committed.
        seconds: since the work began.
    """

    phase: str = "Waiting"
    step: int = 0
    texts: tuple[str, ...] = ()
    done: int = 0
    total: int = 0
    seconds: float = 0.0


class TextView:
    """Listens to a decoding; every report is also where a cancelled one stops."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._now = TextSnapshot("Loading the model")
        self._rows: list[list[str]] = []

    def say(self, phase: str) -> None:
        """What is being done now."""
        self._show(phase=phase)

    def on_progress(self, event: str, done: int, total: int) -> None:
        """See `samplers.output.Progress`."""
        if event == "denoise":
            self._show(done=done, total=total)

    def on_step(self, step: TextStep) -> None:
        """Take a `samplers.text.call.StepSnapshot`."""
        self._rows.append(list(step.texts))
        self._show(step=step.index + 1, texts=tuple(step.texts))

    def take_steps(self) -> list[list[str]]:
        """The texts after each step so far, and begin anew."""
        rows, self._rows = self._rows, []
        return rows

    def snapshot(self) -> TextSnapshot:
        """What there is to show now."""
        with self._lock:
            return replace(self._now, seconds=self._task.seconds)

    def _show(self, **changes: Any) -> None:
        with self._lock:
            self._now = replace(self._now, **changes)
        self._task.tell()
        self._task.check()


@dataclass(frozen=True)
class TextRequest:
    """What the Text tab asks for: a request, and whether to compare it with plain decoding."""

    request: Request
    compares: bool


def write_texts(
    context: AppContext, asked: TextRequest, task: Task, view: TextView
) -> tuple[Answers, ...]:
    """Write the texts of one or two samplers.

    Raises:
        Cancelled: `task` was stopped; the pipeline is as before.
        GensiftError: the request cannot be carried out.
    """
    requests = [asked.request]
    if asked.compares and asked.request.sampler != PLAIN:
        requests.append(replace(asked.request, sampler=PLAIN, options={}))
    return tuple(_write(context, request, view) for request in requests)


def _write(context: AppContext, request: Request, view: TextView) -> Answers:
    view.say("Loading the model")
    with prepared(context, request) as session:
        TEXT.check_sampler(request.sampler, session.job.modality.name)
        view.say(f"Decoding with {request.sampler}")
        output = session.run(view.on_progress, on_step=view.on_step)
        return _keep(context, session, output, view.take_steps())


def _keep(
    context: AppContext, session: Session, output: SamplerOutput, steps: list[list[str]]
) -> Answers:
    job = session.job
    (result,), (trace,) = output.results, output.trace.prompts
    with run_folder(context, session) as folder:
        folder.write_json(STEPS, {"sampler": session.request.sampler, "steps": steps})
        folder.append_result(write_prompt(folder, job, output, 0))
        folder.write_summary({**output.cost.to_dict(), "planned": session.plan.cost.to_dict()})
    place = {seed: index for index, seed in enumerate(result.seeds)}
    order = [place[seed] for seed in trace.seeds if seed in place]
    return Answers(
        folder=folder.path,
        sampler=session.request.sampler,
        prompt=result.prompt,
        texts=tuple(result.samples[at] for at in order),
        rewards=tuple(result.rewards[at] for at in order) if result.rewards else (),
        scorer=", ".join(job.rewards),
        cost=output.cost,
        command=job.command,
    )
