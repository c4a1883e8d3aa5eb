"""The work behind the Caches tab: a picture with and without a cache, and calibrating one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.jobs.options import GenerateOptions
from apps.jobs.preparation import resolve_call
from apps.jobs.prompts import gather_prompts
from apps.jobs.run import memory_advice, versions
from apps.web.app_context import AppContext
from apps.web.models import Models
from apps.web.options import AppOptions
from apps.web.request_queue import Task
from apps.web.requests import check_prompt, refuse_paths
from apps.web.run_store import PROFILE
from apps.web.schedules import ShownSchedule
from apps.web.stopping import stoppable
from caches.options import CalibrationOptions
from caches.registry import CACHES, DEFAULT_METHOD, options_class_of
from gensift.config import check, from_dict, option, to_dict
from gensift.errors import ConfigError
from gensift.protocols import CallArguments, JsonObject, Pipeline
from gensift.randomness import candidate_seed, make_generators
from gensift.runs import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

WARM_UP_STEPS = 2
TURNS = 2
"""Times that each picture is drawn; the faster one counts."""
SCHEDULE = "schedule.png"


@dataclass(frozen=True, kw_only=True)
class CacheRequest:
    """What the Caches tab asks for; `profile` is the name of a cache or of a calibrating run."""

    model: str = option("shapes-flux", help="Model.")
    prompt: str = option("", help="Text to generate from.")
    seed: int = option(0, minimum=0, maximum=2**63 - 1, help="Number all randomness derives from.")
    steps: int | None = option(None, minimum=2, help="Denoising steps.")
    profile: str = option("ertacache", help="Cache of the zoo, or a run that calibrated one.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """A calibration that the Caches tab asks for."""

    model: str = option("shapes-flux", help="Model.")
    prompts: tuple[str, ...] = option((), help="Prompts; half of them are held out.")
    steps: int | None = option(None, minimum=2, help="Denoising steps.")
    cache: str = option(DEFAULT_METHOD, help="Method.")
    options: JsonObject = option({}, help="Options of the method's calibration, by name.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One picture, twice.

    Attributes:
        plain, cached: PIL pictures of the same seed.
        plain_s, cached_s: seconds of the whole calls, the faster of two each.
        psnr: dB between them; infinite where they are equal.
        reused_share: share of the evaluations that the cache answered.
        schedule: of the cache.
    """

    plain: Image
    cached: Image
    plain_s: float
    cached_s: float
    psnr: float
    reused_share: float
    schedule: ShownSchedule


@dataclass(frozen=True)
class CacheSnapshot:
    """How far the work is: what is being done, and the seconds since it began."""

    phase: str = "Waiting"
    seconds: float = 0.0


class CacheView:
    """Listens to the work; every report is also where it stops when cancelled."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._now = CacheSnapshot("Loading the model")

    def say(self, phase: str) -> None:
        """What is being done now."""
        self._show(CacheSnapshot(phase))

    def snapshot(self) -> CacheSnapshot:
        """What there is to show now."""
        with self._lock:
            return replace(self._now, seconds=self._task.seconds)

    def _show(self, snapshot: CacheSnapshot) -> None:
        with self._lock:
            self._now = snapshot
        self._task.tell()
        self._task.check()


def read_comparison(given: JsonObject, limits: AppOptions, models: Models) -> CacheRequest:
    """Check what was asked for.

    Raises:
        GensiftError: a value is of the wrong type, out of range or not offered here.
    """
    request = from_dict(CacheRequest, {k: v for k, v in given.items() if v is not None})
    _check(request.model, [request.prompt], request.steps, limits, models)
    return request


def read_calibration(given: JsonObject, limits: AppOptions, models: Models) -> CalibrationRequest:
    """The same for a calibration."""
    request = from_dict(CalibrationRequest, {k: v for k, v in given.items() if v is not None})
    _check(request.model, request.prompts, request.steps, limits, models)
    _calibration_options(request, models)
    if len(request.prompts) > limits.max_candidates:
        raise ConfigError(
            f"{len(request.prompts)} prompts were given; at most {limits.max_candidates} are "
            "allowed here."
        )
    return request


def compare(context: AppContext, request: CacheRequest, task: Task, view: CacheView) -> Compared:
    """Draw one picture without and with the cache.

    Raises:
        Cancelled: `task` was stopped; the pipeline is as before.
        GensiftError: the cache does not fit the model.
    """
    from caches.enable import disable_cache, enable_cache
    from caches.profile import read_profile

    with _pipeline(context, request.model, request.steps, task, view) as (pipe, call):
        file = _profile_file(context, pipe, request.profile)
        profile = read_profile(file)
        view.say("Warming up")
        _draw(pipe, request, {**call, "num_inference_steps": WARM_UP_STEPS})
        plain_s, cached_s = [], []
        for turn in range(1, TURNS + 1):  # in turns, so that both see the same machine
            view.say(f"Drawing without the cache, {turn} of {TURNS}")
            plain, seconds = _draw(pipe, request, call)
            plain_s.append(seconds)
            cache = enable_cache(pipe, file)
            try:
                view.say(f"Drawing with {profile.cache}, {turn} of {TURNS}")
                cached, seconds = _draw(pipe, request, call)
                report = cache.report()
            finally:
                disable_cache(pipe)
            cached_s.append(seconds)
        return Compared(
            plain=plain,
            cached=cached,
            plain_s=min(plain_s),
            cached_s=min(cached_s),
            psnr=psnr(plain, cached),
            reused_share=report.reused_share,
            schedule=ShownSchedule.of(cache),
        )


def calibrate(
    context: AppContext, request: CalibrationRequest, task: Task, view: CacheView
) -> Path:
    """Calibrate a cache and leave its profile in a run folder, which is returned.

    Raises:
        Cancelled: `task` was stopped; the pipeline is as before.
        GensiftError: too few prompts, or the aim cannot be reached.
    """
    from caches.calibrate import calibrate as calibrate_cache
    from caches.picture import draw_schedule
    from caches.profile import write_profile

    options = _calibration_options(request, context.models)
    loaded = _pipeline(context, request.model, request.steps, task, view)
    with loaded as (pipe, call), memory_advice():
        found = calibrate_cache(
            pipe,
            list(request.prompts),
            options,
            on_stage=lambda name: view.say(f"Calibrating: {name}"),
            **call,
        )
    path = context.new_folder(f"calibrate-{request.cache}", request.model)
    config = {
        "model": request.model,
        "call": call,
        "calibration": {"cache": request.cache, **to_dict(options)},
    }
    command = f"gensift calibrate --model {request.model} --output {PROFILE}"
    with RunFolder(
        path, config=config, command=command, pipeline_call=None, versions=versions()
    ) as folder:
        draw_schedule(found, folder.path / SCHEDULE)
        write_profile(folder.path / PROFILE, found.profile)
    return path


def _calibration_options(request: CalibrationRequest, models: Models) -> CalibrationOptions:
    """The options of the method that was chosen; texts that could name a file are refused."""
    options = from_dict(options_class_of(request.cache), request.options)
    refuse_paths(options, models)
    return options


def psnr(left: Image, right: Image) -> float:
    """Peak signal-to-noise ratio of two pictures of equal size, dB."""
    difference = np.asarray(left, np.float64) - np.asarray(right, np.float64)
    error = float((difference**2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


@contextmanager
def _pipeline(
    context: AppContext, model: str, steps: int | None, task: Task, view: CacheView
) -> Iterator[tuple[Pipeline, JsonObject]]:
    """The pipeline, which stops at its next evaluation when cancelled, and its call's arguments."""
    limits = context.options
    view.say(f"Loading {model}")
    options = GenerateOptions(steps=steps, device=limits.device, dtype=limits.dtype)
    pipe, _ = context.models.load(options, model, {})
    _, call, _ = resolve_call(options, pipe)
    with stoppable(pipe, task):
        yield pipe, call


def _draw(pipe: Pipeline, request: CacheRequest, call: CallArguments) -> tuple[Image, float]:
    (generator,) = make_generators([candidate_seed(request.seed, 0, 0)])
    start = time.perf_counter()
    with memory_advice():
        picture: Image = pipe(prompt=request.prompt, generator=generator, **call).images[0]
    return picture, time.perf_counter() - start


def _profile_file(context: AppContext, pipe: Pipeline, name: str) -> Path:
    from caches.enable import profile_of_model

    if name in CACHES.names():
        return profile_of_model(pipe, name)
    file = context.runs.open(name).file(PROFILE)
    if file is None:
        raise ConfigError(f"Run {name[:80]!r} holds no cache profile; choose one that calibrated.")
    return file


def _check(
    model: str, prompts: Sequence[str], steps: int | None, limits: AppOptions, models: Models
) -> None:
    models.check(model)
    gather_prompts(prompts, None)
    for prompt in prompts:
        check_prompt(prompt, limits)
    if steps is not None and steps > limits.max_steps:
        raise ConfigError(f"`steps` is {steps}; at most {limits.max_steps} are allowed here.")
