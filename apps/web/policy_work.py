"""The work behind the Policy tab: the same episodes without and with a cache, and what it costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from apps.jobs.results import write_prompt
from apps.web.app_context import AppContext, Session, prepared, run_folder
from apps.web.request_queue import Task
from apps.web.requests import Request, check_plan
from apps.web.schedules import ShownSchedule
from apps.web.stopping import stoppable
from gensift.cost import Cost
from gensift.errors import ConfigError
from gensift.protocols import CallArguments, Pipeline
from gensift.randomness import candidate_seed, make_generators
from samplers.policy.episode import ActedEpisode

if TYPE_CHECKING:
    from torch import Tensor

    from samplers.policy.frames import Frame

SAMPLER = "policy"
UNCACHED = "uncached"
PLANS = 8
"""Moments of the uncached episodes at which plans are timed and compared."""
_HAND, _GOAL = slice(0, 3), slice(18, 21)

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]

Seen: TypeAlias = list[list[Floats]]
"""What each robot has seen so far, one array per moment."""


@dataclass(frozen=True, kw_only=True)
class Acted:
    """The episodes of one way to plan.

    Attributes:
        name: of the cache, or "uncached".
        folder: run folder.
        episodes: `ActedEpisode`s in order of their goals.
        paths: per episode metres `(moments, 3)`, where the hand was.
        goals: per episode metres `(3,)`.
        cost: of all.
        command: that does the same on the command line.
    """

    name: str
    folder: Path
    episodes: tuple[ActedEpisode, ...]
    paths: tuple[Floats, ...]
    goals: tuple[Floats, ...]
    cost: Cost
    command: str

    @property
    def successes(self) -> int:
        """Episodes that reached their goal."""
        return sum(episode.is_success for episode in self.episodes)


@dataclass(frozen=True, kw_only=True)
class Plans:
    """The same chunks of actions planned in turns without and with the cache, one robot at a time.

    Attributes:
        plain_s, cached_s: seconds of each plan.
        error: mean relative L2 distance between the two plans.
        noise_error: the same between two uncached plans from different noise.
        schedule: of the cache.
    """

    plain_s: tuple[float, ...]
    cached_s: tuple[float, ...]
    error: float
    noise_error: float
    schedule: ShownSchedule

    @property
    def speedup(self) -> float:
        """Median time without the cache over that with it."""
        return median(self.plain_s) / median(self.cached_s)


@dataclass(frozen=True, kw_only=True)
class PolicyComparison:
    """What the tab shows at the end."""

    task: str
    plain: Acted
    cached: Acted
    plans: Plans


@dataclass(frozen=True)
class PolicySnapshot:
    """How far the episodes are.

    Attributes:
        phase: in words.
        paths: by the name of the way to plan, see `Acted.paths`.
        goals: see `Acted.goals`.
        seconds: since the work began.
    """

    phase: str = "Waiting"
    paths: Mapping[str, Sequence[Floats]] | None = None
    goals: Sequence[Floats] = ()
    seconds: float = 0.0


class PolicyView:
    """Listens to the episodes; every report is also where cancelled work stops."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._phase = "Loading the model"
        self._seen: dict[str, Seen] = {}

    def say(self, phase: str) -> None:
        """What is being done now."""
        with self._lock:
            self._phase = phase
        self._tell()

    def watch(self, name: str, count: int) -> Seen:
        """Begin `count` episodes planned in the way `name`; returns what `see` will fill."""
        with self._lock:
            self._seen[name] = [[] for _ in range(count)]
            return self._seen[name]

    def see(self, name: str, number: int, observation: Floats) -> None:
        """Take what robot `number` sees now."""
        with self._lock:
            self._seen[name][number].append(np.array(observation))
        self._tell()

    def snapshot(self) -> PolicySnapshot:
        """What there is to show now."""
        with self._lock:
            seen = {name: [list(one) for one in episodes] for name, episodes in self._seen.items()}
            phase = self._phase
        paths = {name: [path_of(one) for one in episodes] for name, episodes in seen.items()}
        begun = [one[0][_GOAL] for one in next(iter(seen.values()), []) if one]
        return PolicySnapshot(phase, paths, begun, self._task.seconds)

    def _tell(self) -> None:
        self._task.tell()
        self._task.check()


def compare_policy(
    context: AppContext, request: Request, task: Task, view: PolicyView
) -> PolicyComparison:
    """Act without and with the cache of `request`, then plan the same chunks in turns.

    Raises:
        Cancelled: `task` was stopped; the pipeline is as before.
        GensiftError: the request cannot be carried out.
    """
    cache = request.cache
    if request.sampler != SAMPLER or cache is None:
        raise ConfigError("Two rollouts are compared: give the sampler policy and a cache.")
    # Both report all episodes, so that they can be compared goal by goal.
    request = replace(request, options={**request.options, "num_outputs": None})
    with prepared(context, request) as session:  # refuses a cache that does not fit
        both = session.plan.cost + session.plan.cost
        check_plan(replace(session.plan, cost=both), context.options)
    uncached = replace(request, cache=None)
    plain, seen = _act(context, uncached, task, view)
    cached, _ = _act(context, request, task, view)
    view.say("Planning in turns, to take the time")
    with prepared(context, uncached) as session, stoppable(session.job.pipeline, task):
        plans = _plan_in_turns(session, cache, seen, request.seed)
    return PolicyComparison(task=request.prompt, plain=plain, cached=cached, plans=plans)


def path_of(seen: Sequence[Floats]) -> Floats:
    """Where the hand was, metres `(moments, 3)`, of observations `(45,)`."""
    return np.array([one[_HAND] for one in seen]).reshape(-1, 3)


def _act(context: AppContext, request: Request, task: Task, view: PolicyView) -> tuple[Acted, Seen]:
    """Episodes of one way to plan, kept in a run folder, and what their robots saw."""
    name = request.cache or UNCACHED
    with prepared(context, request) as session, stoppable(session.job.pipeline, task):
        seen = view.watch(name, session.plan.num_candidates)

        def see(frame: Frame) -> None:
            view.see(name, frame.number, frame.observation)

        view.say(f"Acting, {name}")
        output = session.run(on_step=see)
        (result,) = output.results
        with run_folder(context, session) as folder:
            folder.append_result(write_prompt(folder, session.job, output, 0))
            folder.write_summary({**output.cost.to_dict(), "planned": session.plan.cost.to_dict()})
        return (
            Acted(
                name=name,
                folder=folder.path,
                episodes=tuple(sorted(result.samples, key=lambda episode: episode.goal)),
                paths=tuple(map(path_of, seen)),
                goals=tuple(one[0][_GOAL] for one in seen),
                cost=output.cost,
                command=session.job.command,
            ),
            seen,
        )


def _plan_in_turns(session: Session, cache: str, seen: Seen, seed: int) -> Plans:
    from caches.enable import disable_cache, enable_cache

    pipe, call = session.job.pipeline, session.job.call
    plain_s, cached_s, errors, noise_errors = [], [], [], []
    looks = _moments(seen, pipe.n_obs_steps)
    _plan(pipe, looks[0], seed, call)  # the first call is slower
    for number, look in enumerate(looks):
        own, other = candidate_seed(seed, 0, number), candidate_seed(seed, 1, number)
        plain, plain_time = _plan(pipe, look, own, call)
        from_other_noise, _ = _plan(pipe, look, other, call)
        attached = enable_cache(pipe, cache)
        try:
            cached, cached_time = _plan(pipe, look, own, call)
        finally:
            disable_cache(pipe)
        plain_s.append(plain_time)
        cached_s.append(cached_time)
        errors.append(_distance(cached, plain))
        noise_errors.append(_distance(from_other_noise, plain))
    return Plans(
        plain_s=tuple(plain_s),
        cached_s=tuple(cached_s),
        error=float(np.mean(errors)),
        noise_error=float(np.mean(noise_errors)),
        schedule=ShownSchedule.of(attached),
    )


def _plan(pipe: Pipeline, look: Tensor, seed: int, call: CallArguments) -> tuple[Tensor, float]:
    """One robot's plan before it is scaled back, and the seconds that it took."""
    start = time.perf_counter()
    output = pipe(look[None], generator=make_generators([seed]), output_type="latent", **call)
    actions: Tensor = output.actions.cpu()
    return actions, time.perf_counter() - start


def _moments(seen: Seen, n_obs_steps: int) -> list[Tensor]:
    """What is looked at in `PLANS` evenly spaced moments, `(n_obs_steps, obs_dim)` each."""
    from gensift.pipelines.policy.control import History

    looks = []
    for episode in seen:
        history = History(n_obs_steps)
        for observation in episode:
            history.see(observation)
            looks.append(history.stacked())
    places = np.linspace(0, len(looks) - 1, min(PLANS, len(looks))).round().astype(int)
    return [looks[place] for place in places]


def _distance(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).norm() / reference.norm())
