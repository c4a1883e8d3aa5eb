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
        page.load(studio.warm_up, api_visibility="private", queue=False)
        page.unload(_leave(studio))
    page.queue(max_size=2 * options.max_waiting, default_concurrency_limit=2 * options.max_waiting)
    return page


def _leave(studio: Any) -> Any:
    import gradio as gr

    def leave(request: gr.Request) -> None:
        """Stop the work of a visitor who closes the page."""
        studio.desk.cancel(str(request.session_hash))

    return leave


def launch(page: Any, options: AppOptions) -> Any:
    """Start the server in a thread of its own; returns Gradio's app, local and public address."""
    return page.launch(
        server_name=options.host,
        server_port=options.port or _free_port(options.host),
        share=options.share,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        allowed_paths=[str(Path(options.output).resolve())],
        max_file_size=MAX_UPLOAD,
        max_threads=4 * options.max_waiting,
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=["api"],
        state_session_capacity=100,
        theme=_theme(),
        css_paths=[STYLE],
    )


def _theme() -> Any:
    """Plain, with the fonts of the system: nothing is fetched from elsewhere."""
    import gradio as gr

    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
        block_title_text_weight="600",
        block_border_width="0px",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_padding="*spacing_md",
        input_background_fill="*background_fill_primary",
        input_border_width="1px",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
    )


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
