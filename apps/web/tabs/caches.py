"""The Caches tab: the same picture with and without a cache; and calibrating one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.events import api

from apps.web.app_context import AppContext
from apps.web.cache_choice import MethodChoice, choose_method
from apps.web.cache_work import (
    CacheRequest,
    CacheSnapshot,
    CacheView,
    CalibrationRequest,
    Compared,
    calibrate,
    compare,
    read_calibration,
    read_comparison,
)
from apps.web.choosing import models_of, session_of
from apps.web.documents import documents, rest_of
from apps.web.encoding import picture_uri
from apps.web.following import Frame, frames
from apps.web.grid import error_html, status_html, stopped_html
from apps.web.run_store import PROFILE
from apps.web.schedules import schedule_html
from apps.web.scrolling import SCROLL
from apps.web.widgets import optional_number, whole_number
from caches.registry import CACHES, DEFAULT_METHOD
from gensift.protocols import JsonObject

PROMPT = "a red circle left of a blue square"
PROMPTS = (
    "a red circle",
    "two blue squares",
    "a green cross and a yellow circle",
    "three orange triangles",
    "a purple square above a red cross",
    "four yellow circles",
    "a blue triangle left of a green circle",
    "an orange cross",
)
FIRST_MODEL = "shapes-flux"


@dataclass(frozen=True)
class Controls:
    """What a visitor sets."""

    prompt: gr.Textbox
    profile: gr.Dropdown
    model: gr.Dropdown
    seed: gr.Number
    steps: gr.Textbox
    prompts: gr.Textbox
    method: MethodChoice
    go: gr.Button
    stop: gr.Button
    make: gr.Button


def build(context: AppContext) -> None:
    """Build the tab in the current block."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            controls = _controls(context)
        with gr.Column(scale=5, min_width=320):
            live = gr.HTML(_welcome(), elem_id="cache-live")
            outcome = _outcome()

    def run_comparison(request: gr.Request, *values: object) -> Iterator[list[object]]:
        names = ("prompt", "profile", "model", "seed", "steps")
        given = {**dict(zip(names, values, strict=True)), "steps": whole_number(str(values[-1]))}
        for frame in _compare(context, session_of(request), given):
            yield _compared(frame)

    def run_calibration(request: gr.Request, *values: object) -> Iterator[list[object]]:
        def read() -> CalibrationRequest:
            return _read_calibration(context, controls, values)

        for frame in frames(context, session_of(request), read, CacheView, calibrate):
            yield _calibrated(context, frame)

    def cancel(request: gr.Request) -> None:
        context.request_queue.cancel(session_of(request))

    c = controls
    asked = [c.prompt, c.profile, c.model, c.seed, c.steps]
    aimed = [c.model, c.steps, c.prompts, *c.method.components]
    private: JsonObject = {"api_visibility": "private", "show_progress": "hidden"}
    gr.on([c.go.click, c.prompt.submit], run_comparison, asked, [live, *outcome], **private)
    c.go.click(None, js=SCROLL.format("cache-live"), api_visibility="private")
    c.make.click(run_calibration, aimed, [live, c.profile], **private)
    c.stop.click(cancel, queue=False, **private)
    _serve_api(context)


def _controls(context: AppContext) -> Controls:
    longest, known = context.options.max_prompt, _profiles(context)
    models = models_of("image", context.models.names)
    prompt = gr.Textbox(PROMPT, label="Prompt", max_length=longest, elem_id="cache-prompt")
    profile = gr.Dropdown(known, value=known[0], label="Cache", elem_id="cache-profile")
    with gr.Row():
        go = gr.Button("Compare", variant="primary", elem_id="cache-go", min_width=100)
        stop = gr.Button("Cancel", elem_id="cache-stop", min_width=100)
    model = gr.Dropdown(models, value=FIRST_MODEL, label="Model")
    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    steps = optional_number("steps", "Denoising steps.", "cache-steps")
    with gr.Accordion("Calibrate a new one", open=False, elem_id="cache-calibrate"):
        label = "Prompts, one per line; half are held out"
        prompts = gr.Textbox("\n".join(PROMPTS), label=label, lines=5)
        method = choose_method(DEFAULT_METHOD)
        make = gr.Button("Calibrate", elem_id="cache-make")
    return Controls(prompt, profile, model, seed, steps, prompts, method, go, stop, make)


def _outcome() -> list[Component]:
    """The column of results, hidden, with the slider and the schedule in it."""
    with gr.Column(visible=False, elem_id="cache-outcome") as column:
        slider = gr.ImageSlider(
            label="Left: without the cache. Right: with it.",
            type="pil",
            format="png",
            max_height=480,
            interactive=False,
            elem_id="cache-slider",
        )
        schedule = gr.HTML(elem_id="cache-schedule")
    return [column, slider, schedule]


def _read_calibration(
    context: AppContext, controls: Controls, values: Sequence[object]
) -> CalibrationRequest:
    model, steps, text, *chosen = values
    given = {
        "model": model,
        "steps": whole_number(str(steps)),
        "prompts": [line.strip() for line in str(text).splitlines() if line.strip()],
        **controls.method.read(chosen),
    }
    return read_calibration(given, context.options, context.models)


def _compare(context: AppContext, session: str, given: JsonObject) -> Iterator[Frame]:
    def read() -> CacheRequest:
        return read_comparison(given, context.options, context.models)

    return frames(context, session, read, CacheView, compare)


def _compared(frame: Frame) -> list[object]:
    if frame.found is None:
        hide = [gr.update(visible=False)] if not frame.problem else [gr.skip()]
        return [_working(frame), *hide, gr.skip(), gr.skip()]
    found: Compared = frame.found
    return [
        figures_html(found),
        gr.update(visible=True),
        (found.plain, found.cached),
        schedule_html(found.schedule),
    ]


def _calibrated(context: AppContext, frame: Frame) -> list[object]:
    if frame.found is None:
        return [_working(frame), gr.skip()]
    path: Path = frame.found
    text = f"Calibrated. It is chosen as the cache now, and kept in {path.name}."
    return [status_html(text), gr.update(choices=_profiles(context), value=path.name)]


def _working(frame: Frame) -> str:
    snapshot = frame.view or CacheSnapshot()
    if frame.problem:
        return error_html(frame.problem)
    if frame.is_stopped:
        return stopped_html(snapshot.seconds)
    if frame.before:
        return status_html(f"Waiting: {frame.before} before yours.")
    bar = '<progress class="gs-bar" aria-label="Progress"></progress>'
    return status_html(snapshot.phase, f"{snapshot.seconds:.1f} s") + bar


def figures_html(found: Compared) -> str:
    """Speed and likeness in numbers."""
    likeness = "equal" if math.isinf(found.psnr) else f"{found.psnr:.1f} dB"
    facts = {
        "without the cache": f"{found.plain_s:.2f} s",
        f"with {found.schedule.name}": f"{found.cached_s:.2f} s",
        "faster": f"{found.plain_s / found.cached_s:.2f} times, the faster of two each",
        "likeness (PSNR)": likeness,
        "evaluations reused": f"{100 * found.reused_share:.0f} %",
    }
    inner = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()
    )
    return f'{status_html("Compared")}<dl class="gs-facts">{inner}</dl>'


def _profiles(context: AppContext) -> list[str]:
    return [*CACHES.names(), *context.runs.names(PROFILE)]


def _welcome() -> str:
    return (
        status_html("Press Compare.")
        + '<p class="gs-hint">A cache reuses what hardly changes from step to step. The same '
        "picture is drawn without it and with it, from the same seed.</p>"
    )


def _serve_api(context: AppContext) -> None:
    def compare_cache(
        request: gr.Request,
        prompt: str,
        profile: str = DEFAULT_METHOD,
        model: str = FIRST_MODEL,
        seed: int = 0,
        options: JsonObject = {},  # noqa: B006
    ) -> Iterator[JsonObject]:
        """Draw one picture without and with a cache; yields progress, and at last both.

        Args:
            request: set by Gradio.
            prompt: text to generate from.
            profile: ertacache, bac, or the name of a run that calibrated one.
            model: what draws.
            seed: number that all randomness derives from.
            options: steps.
        """
        given = {"prompt": prompt, "profile": profile, "model": model, "seed": seed}
        shown = _compare(context, session_of(request), {**given, **rest_of(options)})
        yield from documents(shown, _found)

    api(compare_cache, api_name="compare_cache")


def _found(found: Compared) -> JsonObject:
    return {
        "seconds": {"plain": found.plain_s, "cached": found.cached_s},
        "psnr": None if math.isinf(found.psnr) else found.psnr,
        "reused_share": found.reused_share,
        "schedule": {name: list(updates) for name, updates in found.schedule.parts.items()},
        "plain": picture_uri(found.plain),
        "cached": picture_uri(found.cached),
    }
