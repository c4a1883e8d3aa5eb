"""Serving the page, on this machine alone unless told otherwise."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from apps.app.options import AppOptions
from apps.console import say, silence_libraries

STYLE = Path(__file__).with_name("style.css")
FILES = ".gradio"
"""Folder in that of the runs where Gradio keeps what it serves."""
MAX_UPLOAD = 4096
"""Bytes; the page takes no uploads, but Gradio's server has a route for them."""


def serve(options: AppOptions) -> None:
    """Serve until Ctrl-C."""
    page = build_page(options)
    _, url, public = launch(page, options)
    say(f"Open {public or url} in a browser; Ctrl-C ends it. Runs are kept in {options.output}.")
    page.block_thread()


def build_page(options: AppOptions) -> Any:
    """The page, not yet served."""
    # Read when Gradio is imported, or when it first writes.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str((Path(options.output) / FILES).resolve())
    from apps.app.page import build
    from apps.app.studio import Studio

    silence_libraries()
    return build(Studio(options))


def launch(page: Any, options: AppOptions) -> Any:
    """Start the server in a thread of its own; returns Gradio's app, local and public address."""
    from apps.app.page import theme

    return page.launch(
        server_name=options.host,
        server_port=options.port or free_port(options.host),
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
        theme=theme(),
        css_paths=[STYLE],
    )


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
