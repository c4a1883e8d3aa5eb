"""The Runs tab: what earlier requests left, to look at and to download."""

from __future__ import annotations

import html

import gradio as gr
from gradio.events import api

from apps.web.app_context import AppContext
from apps.web.choosing import modality_of
from apps.web.encoding import data_uri
from apps.web.events import PRIVATE
from apps.web.following import one_line
from apps.web.grid import error_html, score_text, status_html
from apps.web.run_store import Run
from gensift.conversion import strict_json
from gensift.errors import GensiftError
from gensift.protocols import JsonObject

MAX_SAMPLES = 48
"""Samples of a run that are shown; all of them can be downloaded."""
MAX_LISTED = 500


def build(context: AppContext) -> None:
    """Build the tab in the current block."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            run = gr.Dropdown(
                _names(context), value=None, label="Run, newest first", elem_id="runs-run"
            )
            refresh = gr.Button("Refresh", elem_id="runs-refresh")
            files = gr.File(
                label="Files to download",
                file_count="multiple",
                interactive=False,
                elem_id="runs-files",
            )
        with gr.Column(scale=5, min_width=320):
            page = gr.HTML(status_html("Choose a run."), elem_id="runs-page")
            with gr.Accordion("run.json", open=False):
                summary = gr.Code(language="json", interactive=False, elem_id="runs-summary")

    def show(name: str | None) -> list[object]:
        if not name:
            return [status_html("Choose a run."), "", None]
        try:
            found = context.runs.open(name)
            return [
                run_html(found),
                strict_json(found.summary, indent=2),
                [str(file) for file in found.files],
            ]
        except GensiftError as error:
            return [error_html(one_line(error)), "", None]

    def list_again() -> JsonObject:
        update: JsonObject = gr.update(choices=_names(context))
        return update

    run.change(show, run, [page, summary, files], **PRIVATE)
    refresh.click(list_again, None, run, **PRIVATE)
    gr.on([run.focus], list_again, None, run, queue=False, **PRIVATE)
    _serve_api(context)


def run_html(run: Run) -> str:
    """Samples, scores, and the sifting tree of a run."""
    lines = run.lines
    samples = [(line["prompt"], sample) for line in lines for sample in line["samples"]]
    items = "".join(_sample(run, prompt, sample) for prompt, sample in samples[:MAX_SAMPLES])
    hidden = len(samples) - MAX_SAMPLES
    more = f"<p>{hidden} more are in results.jsonl.</p>" if hidden > 0 else ""
    command = html.escape(str(run.summary.get("command", "")))
    return (
        f"{status_html(run.path.name)}<p><code>{command}</code></p>"
        f'<ol class="gs-grid" aria-label="Samples">{items}</ol>{more}{_figures(run)}'
    )


def _sample(run: Run, prompt: str, sample: JsonObject) -> str:
    reward = sample.get("reward")
    score = "" if reward is None else score_text(float(reward))
    return (
        f'<li class="gs-card">{_content(run, prompt, sample)}'
        f'<div class="gs-caption"><span>{score}</span></div><div class="gs-fate">'
        f"{html.escape(prompt)}<br>seed {html.escape(str(sample.get('seed', '')))}</div></li>"
    )


def _content(run: Run, prompt: str, sample: JsonObject) -> str:
    """What there is of a sample: a picture, words, or both."""
    file = run.file(str(sample.get("file", "")))
    picture = ""
    if file is not None and file.suffix == ".png":
        source = data_uri(file.read_bytes(), "image/png")
        picture = f'<img src="{source}" alt="{html.escape(prompt, quote=True)}">'
    words = html.escape(modality_of(run.summary.get("config", {})).in_words(sample))
    if not words:
        return picture
    return f"{picture}<p>{words}</p>" if picture else f"<code>{words}</code>"


def _figures(run: Run) -> str:
    """Trees and schedules."""
    shown = [f for f in run.files if f.suffix == ".png" and not f.stem[:4].isdigit()]
    return "".join(
        f'<div class="gs-sheet" tabindex="0"><img src="{data_uri(f.read_bytes(), "image/png")}" '
        f'alt="{html.escape(f.stem)}"></div>'
        for f in shown
    )


def _names(context: AppContext) -> list[str]:
    return context.runs.names()[:MAX_LISTED]


def _serve_api(context: AppContext) -> None:
    def list_runs() -> list[str]:
        """Names of the runs, newest first."""
        return _names(context)

    def read_run(run: str) -> JsonObject:
        """Summary and results of a run.

        Args:
            run: its name, as `list_runs` gives it.
        """
        try:
            found = context.runs.open(run)
        except GensiftError as error:
            raise gr.Error(one_line(error), print_exception=False) from error
        files = [file.name for file in found.files]
        return {"summary": found.summary, "results": found.lines, "files": files}

    api(list_runs, api_name="list_runs", queue=False)
    api(read_run, api_name="read_run", queue=False)
