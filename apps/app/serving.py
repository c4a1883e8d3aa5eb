"""Building the page and serving it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from apps.app.options import AppOptions
from apps.console import say, silence_libraries

STYLE = Path(__file__).with_name("style.css")
FILES = ".gradio"
"""Folder in that of the runs where Gradio keeps what it serves."""
KEPT_S = 3600
"""Seconds that Gradio keeps a served file."""
MAX_UPLOAD = 4096
"""Bytes; the page takes no uploads, but Gradio's server has a route for them."""


def serve(options: AppOptions) -> None:
    """Serve until Ctrl-C."""
    page = build_page(options)
    _, url, _ = launch(page, options)
    say(f"Open {url} in a browser; Ctrl-C ends it. Runs are kept in {options.output}.")
    page.block_thread()


def build_page(options: AppOptions) -> Any:
    """The page, not yet served."""
    # Read when Gradio is imported, or when it first writes.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str((Path(options.output) / FILES).resolve())
    import gradio as gr

    from apps.app.studio import Studio
    from apps.app.tabs import TABS

    silence_libraries()
    studio = Studio(options)
    with gr.Blocks(
        title="gensift", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S), fill_width=True
    ) as page:
        gr.HTML(
            '<header class="gs-head"><h1>gensift</h1>'
            "<p>Sift among generations: watch who is dropped, and why one wins.</p></header>"
        )
        for title, build in TABS:
            with gr.Tab(title, id=title.lower(), elem_id=f"tab-{title.lower()}"):
                build(studio)
    page.queue(max_size=2 * options.max_waiting, default_concurrency_limit=2 * options.max_waiting)
    return page


def launch(page: Any, options: AppOptions) -> Any:
    """Start the server in a thread of its own; returns Gradio's app, local and public address."""
    import gradio as gr

    fonts = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    theme = gr.themes.Soft(
        primary_hue="blue",
        neutral_hue="slate",
        font=fonts,
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    return page.launch(
        server_name=options.host,
        server_port=options.port or _free_port(options.host),
        share=options.share,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        allowed_paths=[],
        blocked_paths=[str(Path.cwd() / ".git"), str(Path.home())],
        max_file_size=MAX_UPLOAD,
        max_threads=4 * options.max_waiting,
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=["api"],
        state_session_capacity=100,
        theme=theme,
        css_paths=[STYLE],
    )


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
