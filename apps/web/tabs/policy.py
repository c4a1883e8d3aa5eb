"""The Policy tab: a robot under a policy, without and with a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import gradio as gr
from gradio.events import api

from apps.web.app_context import AppContext
from apps.web.choosing import models_of, samplers_of, session_of
from apps.web.documents import documents, rest_of
from apps.web.events import PRIVATE, stopper
from apps.web.following import Frame, frames, reader
from apps.web.grid import error_html, status_html, stopped_html
from apps.web.policy_html import acting_html, comparison_html
from apps.web.policy_work import (
    SAMPLER,
    Acted,
    PolicyComparison,
    PolicySnapshot,
    PolicyView,
    compare_policy,
)
from apps.web.requests import Request
from apps.web.schedules import schedule_html
from apps.web.scrolling import SCROLL
from apps.web.widgets import OptionWidgets, option_widgets, optional_number, whole_number
from caches.registry import CACHES
from gensift.protocols import JsonObject
from gensift.zoo.metaworld.tasks import TASKS

FIRST_CACHE = "bac"
FIRST_TASK = "push"
EPISODES = 4
MOST_EPISODES = 50
"""Held-out goals of a task."""
ROWS_PER_EPISODE = 2 * 25 * 100
"""Denoiser rows of an episode that fails: two rollouts, 25 plans each, a hundred steps each."""


def build(context: AppContext) -> None:
    """Build the tab in the current block."""
    limits = context.options
    affordable = max(1, limits.max_rows // ROWS_PER_EPISODE)
    most = min(MOST_EPISODES, limits.max_candidates, affordable)
    models = models_of("action", context.models.names)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            task = gr.Dropdown(list(TASKS), value=FIRST_TASK, label="Task", elem_id="policy-task")
            cache = gr.Dropdown(
                list(CACHES.names()), value=FIRST_CACHE, label="Cache", elem_id="policy-cache"
            )
            count = gr.Slider(
                1,
                most,
                min(EPISODES, most),
                step=1,
                label="Episodes, each with a goal of its own",
                elem_id="policy-count",
            )
            with gr.Row():
                go = gr.Button("Act", variant="primary", elem_id="policy-go", min_width=100)
                stop = gr.Button("Cancel", elem_id="policy-stop", min_width=100)
            model = gr.Dropdown(models, value=models[0], label="Model")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            steps = optional_number("steps", "Denoising steps.", "policy-steps")
            with gr.Accordion("Options of the episodes", open=False):
                options = option_widgets(samplers_of("action")[SAMPLER].config_class)
        with gr.Column(scale=5, min_width=320):
            live = gr.HTML(_welcome(), elem_id="policy-live")
            schedule = gr.HTML(elem_id="policy-schedule")

    def act(request: gr.Request, *values: object) -> Iterator[list[str]]:
        for frame in _compare(context, session_of(request), lambda: _given(options, values)):
            yield _shown(frame)

    fields = [task, cache, count, model, seed, steps, *options.components]
    go.click(act, fields, [live, schedule], **PRIVATE)
    go.click(None, js=SCROLL.format("policy-live"), api_visibility="private")
    stop.click(stopper(context), queue=False, **PRIVATE)
    _serve_api(context)


def _given(options: OptionWidgets, values: Sequence[object]) -> JsonObject:
    task, cache, count, model, seed, steps, *chosen = values
    return {
        "prompt": task,
        "cache": cache,
        "num_candidates": count,
        "model": model,
        "seed": seed,
        "steps": whole_number(str(steps)),
        "options": options.read(chosen),
    }


def _compare(context: AppContext, session: str, given: Callable[[], JsonObject]) -> Iterator[Frame]:
    def read() -> Request:
        return reader(context, {"sampler": SAMPLER, **given()})()

    return frames(context, session, read, PolicyView, compare_policy)


def _shown(frame: Frame) -> list[str]:
    if frame.problem:
        return [error_html(frame.problem), ""]
    snapshot = frame.view or PolicySnapshot()
    if frame.is_stopped:
        return [stopped_html(snapshot.seconds), ""]
    if frame.found is None:
        return [acting_html(snapshot, frame.before), ""]
    found: PolicyComparison = frame.found
    return [comparison_html(found), schedule_html(found.plans.schedule)]


def _welcome() -> str:
    return (
        status_html("Press Act.")
        + '<p class="gs-hint">A robot arm in simulation plans its actions by denoising them, eight '
        "at a time. It acts twice towards the same goals: without a cache, and with one.</p>"
    )


def _serve_api(context: AppContext) -> None:
    def compare_policy_cache(
        request: gr.Request,
        task: str,
        cache: str = FIRST_CACHE,
        num_candidates: int = EPISODES,
        seed: int = 0,
        options: JsonObject = {},  # noqa: B006
    ) -> Iterator[JsonObject]:
        """Let a policy act without and with a cache; yields progress, and at last what came of it.

        Args:
            request: set by Gradio.
            task: of Meta-World, such as push.
            cache: name of a cache.
            num_candidates: episodes, each with a goal of its own.
            seed: number that all randomness derives from.
            options: model, steps, and under `options` those of the episodes.
        """
        given = {
            "prompt": task,
            "cache": cache,
            "num_candidates": num_candidates,
            "seed": seed,
            **rest_of(options),
        }
        shown = _compare(context, session_of(request), lambda: given)
        yield from documents(shown, _found)

    api(compare_policy_cache, api_name="compare_policy")


def _found(found: PolicyComparison) -> JsonObject:
    plans = found.plans
    return {
        "task": found.task,
        "uncached": _side(found.plain),
        "cached": _side(found.cached),
        "plan_seconds": {"uncached": list(plans.plain_s), "cached": list(plans.cached_s)},
        "speedup": plans.speedup,
        "action_error": plans.error,
        "action_error_of_other_noise": plans.noise_error,
        "schedule": {name: list(updates) for name, updates in plans.schedule.parts.items()},
    }


def _side(side: Acted) -> JsonObject:
    return {
        "run": side.folder.name,
        "goals": [episode.goal for episode in side.episodes],
        "success": [episode.is_success for episode in side.episodes],
        "steps": [episode.steps for episode in side.episodes],
        "cost": side.cost.to_dict(),
        "command": side.command,
    }
