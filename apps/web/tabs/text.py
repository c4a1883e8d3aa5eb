"""The Text tab: answers forming, side by side, marked, and how alike they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import gradio as gr
from gradio.events import api

from apps.web.app_context import AppContext
from apps.web.choosing import models_of, samplers_of, session_of
from apps.web.documents import documents, rest_of
from apps.web.events import PRIVATE, stopper
from apps.web.following import Frame, frames, one_line, reader
from apps.web.grid import error_html, status_html, stopped_html
from apps.web.run_store import STEPS
from apps.web.sampler_choice import SamplerChoice, choose_sampler
from apps.web.scrolling import SCROLL
from apps.web.text_search import Answers, TextRequest, TextSnapshot, TextView, write_texts
from apps.web.texts_html import answers_html, forming_html, maps_html, step_html
from gensift.errors import GensiftError
from gensift.protocols import JsonObject

EXAMPLES = ("use 4 8 18 to make 14", "use 2 14 16 to make 4", "use 3 7 15 to make 36")
TEXTS = 16
FIRST = "odd"
REPLAY_S = 0.5
"""Seconds between the steps of a replay."""


def build(context: AppContext) -> None:
    """Build the tab in the current block."""
    limits = context.options
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                EXAMPLES[0], label="Prompt", max_length=limits.max_prompt, elem_id="text-prompt"
            )
            gr.Examples([[text] for text in EXAMPLES], prompt, label="Try")
            with gr.Row():
                go = gr.Button("Write", variant="primary", elem_id="text-go", min_width=100)
                stop = gr.Button("Cancel", elem_id="text-stop", min_width=100)
            compares = gr.Checkbox(True, label="Beside it: plain decoding with the same seeds")
            choice = choose_sampler("text", FIRST, "text")
            count = gr.Slider(1, limits.max_candidates, TEXTS, step=1, label="Texts")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            model = gr.Dropdown(
                models_of("text", context.models.names),
                value=samplers_of("text")[FIRST].default_model,
                label="Model",
            )
        with gr.Column(scale=5, min_width=320):
            live = gr.HTML(status_html("Press Write."), elem_id="text-live")
            runs = gr.State([])
            with gr.Column(visible=False, elem_id="text-outcome") as outcome:
                gr.Markdown("### How they formed")
                with gr.Row():
                    step = gr.Slider(1, 2, 1, step=1, label="Step", elem_id="text-step", scale=4)
                    play = gr.Button("Replay", elem_id="text-replay", scale=1, min_width=100)
                replay = gr.HTML(elem_id="text-replayed")
                gr.Markdown("### How alike they are")
                maps = gr.HTML(elem_id="text-maps")
    shown = (live, outcome, runs, step, replay, maps)
    fields = [prompt, compares, count, seed, model, *choice.components]

    def write(request: gr.Request, *values: object) -> Iterator[list[object]]:
        yield from _write(context, choice, session_of(request), values)

    def show_step(names: list[str], at: int) -> str:
        return _replayed(context, names, int(at))

    def play_all(names: list[str]) -> Iterator[tuple[int, str]]:
        for at in range(1, _num_steps(context, names) + 1):
            yield at, _replayed(context, names, at)
            time.sleep(REPLAY_S)

    gr.on([go.click, prompt.submit], write, fields, shown, **PRIVATE)
    go.click(None, js=SCROLL.format("text-live"), api_visibility="private")
    stop.click(stopper(context), queue=False, **PRIVATE)
    step.input(show_step, [runs, step], replay, trigger_mode="always_last", **PRIVATE)
    play.click(play_all, runs, [step, replay], **PRIVATE)
    _serve_api(context)


def _write(
    context: AppContext, choice: SamplerChoice, session: str, values: Sequence[object]
) -> Iterator[list[object]]:
    prompt, compares, count, seed, model, *chosen = values

    def read() -> TextRequest:
        given = {
            "prompt": prompt or "",
            "num_candidates": count,
            "seed": seed,
            "model": model,
            **choice.read(chosen),
        }
        return TextRequest(reader(context, given)(), bool(compares))

    for frame in frames(context, session, read, TextView, write_texts):
        yield _shown(context, frame)


def _shown(context: AppContext, frame: Frame) -> list[object]:
    snapshot = frame.view or TextSnapshot()
    keep = [gr.skip() for _ in range(5)]
    if frame.problem:
        return [error_html(frame.problem), *keep]
    if frame.is_stopped:
        return [stopped_html(snapshot.seconds), *keep]
    if frame.found is None:
        return [forming_html(snapshot, frame.before), gr.update(visible=False), *keep[1:]]
    found: Sequence[Answers] = frame.found
    names = [answers.folder.name for answers in found]
    last = _num_steps(context, names)
    return [
        answers_html(found),
        gr.update(visible=True),
        names,
        gr.update(value=last, maximum=max(2, last)),
        _replayed(context, names, last),
        maps_html(found),
    ]


def _num_steps(context: AppContext, names: Sequence[str]) -> int:
    return max((len(steps) for _, steps in _steps(context, names)), default=0)


def _replayed(context: AppContext, names: Sequence[str], at: int) -> str:
    try:
        columns = [(name, steps[min(at, len(steps)) - 1]) for name, steps in _steps(context, names)]
    except GensiftError as error:
        return error_html(one_line(error))
    return step_html(columns, at)


def _steps(context: AppContext, names: Sequence[str]) -> list[tuple[str, list[list[str]]]]:
    found = [context.runs.open(name).read_json(STEPS) for name in names]
    return [(item["sampler"], item["steps"]) for item in found if item and item["steps"]]


def _serve_api(context: AppContext) -> None:
    def generate_texts(
        request: gr.Request,
        prompt: str,
        sampler: str = FIRST,
        num_candidates: int = TEXTS,
        seed: int = 0,
        options: JsonObject = {},  # noqa: B006
    ) -> Iterator[JsonObject]:
        """Write texts for a prompt; yields progress, and at last all texts with their rewards."""
        given = {
            "prompt": prompt,
            "sampler": sampler,
            "num_candidates": num_candidates,
            "seed": seed,
            **rest_of(options),
        }

        def read() -> TextRequest:
            return TextRequest(reader(context, given)(), compares=False)

        shown = frames(context, session_of(request), read, TextView, write_texts)
        yield from documents(shown, _found, lambda snapshot: {"step": snapshot.step})

    api(generate_texts, api_name="generate_texts")


def _found(both: Sequence[Answers]) -> JsonObject:
    (found,) = both
    return {
        "run": found.folder.name,
        "prompt": found.prompt,
        "texts": list(found.texts),
        "rewards": list(found.rewards),
        "cost": found.cost.to_dict(),
        "command": found.command,
    }
