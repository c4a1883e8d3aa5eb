"""The Pictures tab: candidates forming, being scored, dropped; and the winner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component
from gradio.events import api

from apps.web import picture_page
from apps.web.app_context import AppContext
from apps.web.choosing import models_of, samplers_of, session_of
from apps.web.documents import documents, rest_of
from apps.web.encoding import picture_uri
from apps.web.events import PRIVATE, stopper
from apps.web.following import Frame, frames, reader
from apps.web.grid import error_html, live_html, status_html, stopped_html
from apps.web.live import LiveView, Snapshot
from apps.web.picture_search import FoundPicture, search_pictures
from apps.web.requests import Request
from apps.web.sampler_choice import SamplerChoice, choose_sampler
from apps.web.scrolling import SCROLL
from apps.web.widgets import optional_number
from caches.registry import CACHES
from gensift.config import describe, parse_overrides
from gensift.protocols import JsonObject

EXAMPLES = (
    "three green crosses",
    "a red circle left of a blue square",
    "an orange triangle and a purple circle",
    "a red circle",
)
CANDIDATES = 12
FIRST = "ttsnap"
OPTIONAL = ("steps", "guidance_scale", "width", "height")


@dataclass(frozen=True)
class Controls:
    """What a visitor sets: fields of a request by name, and the sampler with its options."""

    prompt: gr.Textbox
    fields: dict[str, Component]
    choice: SamplerChoice
    go: gr.Button
    stop: gr.Button

    @property
    def inputs(self) -> list[Component]:
        """All widgets."""
        return [*self.fields.values(), *self.choice.components]

    def read(self, values: Sequence[object]) -> JsonObject:
        """What the widgets say, as `read_request` takes it."""
        given = dict(zip(self.fields, values, strict=False))
        given = {name: None if value == "" else value for name, value in given.items()}
        texts = [f"{name}={given.pop(name) or 'none'}" for name in OPTIONAL]
        return {
            **given,
            **parse_overrides(texts, Request),
            "prompt": given["prompt"] or "",
            **self.choice.read(values[len(self.fields) :]),
        }


def build(context: AppContext) -> None:
    """Build the tab in the current block."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            controls = _controls(context)
        with gr.Column(scale=5, min_width=320):
            live = gr.HTML(_welcome(), elem_id="picture-live")
            outcome = picture_page.build()

    def generate(request: gr.Request, *values: object) -> Iterator[list[object]]:
        def read() -> Request:
            return reader(context, controls.read(values))()

        for frame in frames(context, session_of(request), read, LiveView, search_pictures):
            yield _shown(frame, outcome)

    gr.on(
        [controls.go.click, controls.prompt.submit],
        generate,
        controls.inputs,
        [live, *outcome.components],
        **PRIVATE,
    )
    controls.go.click(None, js=SCROLL.format("picture-live"), api_visibility="private")
    controls.stop.click(stopper(context), queue=False, **PRIVATE)
    _serve_api(context)


def _controls(context: AppContext) -> Controls:
    limits, helps = context.options, {row.name: row.help for row in describe(Request)}
    prompt = gr.Textbox(
        EXAMPLES[0], label="Prompt", lines=2, max_length=limits.max_prompt, elem_id="picture-prompt"
    )
    gr.Examples([[text] for text in EXAMPLES], prompt, label="Try")
    with gr.Row():
        go = gr.Button("Generate", variant="primary", elem_id="picture-go", min_width=100)
        stop = gr.Button("Cancel", elem_id="picture-stop", min_width=100)
    model = gr.Dropdown(
        models_of("image", context.models.names),
        value=samplers_of("image")[FIRST].default_model,
        label="Model",
        render=False,
    )
    choice = choose_sampler("image", FIRST, "picture", model)
    count = gr.Slider(
        1, limits.max_candidates, CANDIDATES, step=1, label="Candidates", elem_id="picture-count"
    )
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="picture-seed-in")
    with gr.Accordion("Model and size", open=False):
        model.render()  # type: ignore[no-untyped-call]
        rewards = [(name, name) for name in context.models.rewards]
        fitting = [("what fits the model", ""), *rewards]
        reward = gr.Dropdown(fitting, value="", label="Reward", info=helps["reward"])
        numbers = {name: optional_number(name, helps[name], f"picture-{name}") for name in OPTIONAL}
        cache = gr.Dropdown(
            [("none", ""), *((name, name) for name in CACHES.names())],
            value="",
            label="Cache",
            info=helps["cache"],
        )
    fields: dict[str, Component] = {
        "prompt": prompt,
        "num_candidates": count,
        "seed": seed,
        "model": model,
        "reward": reward,
        **numbers,
        "cache": cache,
    }
    return Controls(prompt, fields, choice, go, stop)


def _shown(frame: Frame, outcome: picture_page.OutcomePage) -> list[object]:
    snapshot = frame.view or Snapshot()
    if frame.problem:
        return [error_html(frame.problem), *outcome.unchanged()]
    if frame.is_stopped:
        return [
            stopped_html(snapshot.seconds) + live_html(snapshot, is_over=True),
            *outcome.unchanged(),
        ]
    if frame.found is None:
        return [live_html(snapshot, frame.before), *outcome.empty()]
    return [live_html(snapshot, is_over=True), *outcome.filled(frame.found, snapshot)]


def _serve_api(context: AppContext) -> None:
    def generate_picture(
        request: gr.Request,
        prompt: str,
        sampler: str = FIRST,
        num_candidates: int = CANDIDATES,
        seed: int = 0,
        options: JsonObject = {},  # noqa: B006
    ) -> Iterator[JsonObject]:
        """Search for a picture; yields progress, and at last the winner.

        Args:
            request: set by Gradio.
            prompt: text to generate from.
            sampler: how to search.
            num_candidates: candidates.
            seed: number that all randomness derives from.
            options: any of model, reward, steps, guidance_scale, width, height, cache, and
                options: those of the sampler by name.
        """
        given = {
            "prompt": prompt,
            "sampler": sampler,
            "num_candidates": num_candidates,
            "seed": seed,
            **rest_of(options),
        }
        read = reader(context, given)
        shown = frames(context, session_of(request), read, LiveView, search_pictures)
        yield from documents(shown, _found, _progress)

    api(generate_picture, api_name="generate_picture")

    def cancel(request: gr.Request) -> int:
        """Stop all requests of this client; returns how many there were."""
        return context.request_queue.cancel(session_of(request))

    api(cancel, api_name="cancel", queue=False)


def _progress(snapshot: Snapshot) -> JsonObject:
    return {"phase": snapshot.phase, "done": snapshot.done, "total": snapshot.total}


def _found(found: FoundPicture) -> JsonObject:
    return {
        "run": found.folder.name,
        "prompt": found.prompt,
        "seed": str(found.seed),  # above 2**53, which JavaScript rounds
        "reward": found.reward,
        "cost": found.cost.to_dict(),
        "code": found.code,
        "command": found.command,
        "picture": picture_uri(found.picture),
    }


def _welcome() -> str:
    return (
        status_html("Press Generate.")
        + '<p class="gs-hint">Candidates start as noise. At checkpoints a reward looks at what '
        "each of them is going to be; the worst are dropped, so that the compute goes to the "
        "rest.</p>"
    )
