"""Serving the page, on this machine alone unless told otherwise."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from apps.console import say, silence_libraries
from apps.web.options import AppOptions
from gensift.errors import ConfigError

if TYPE_CHECKING:
    from gradio import Blocks

    from apps.web.app_context import AppContext

STYLE = Path(__file__).with_name("style.css")
FILES = ".gradio"
"""Folder in that of the runs where Gradio keeps what it serves."""
MAX_UPLOAD = 4096
"""Bytes; the page takes no uploads, but Gradio's server has a route for them."""


def serve(options: AppOptions) -> None:
    """Serve until Ctrl-C, which also stops the work that is going on.

    Raises:
        ConfigError: the port cannot be used.
    """
    if options.port:  # before anything heavy is loaded
        check_port(options.host, options.port)
    context = make_context(options)
    page = build_page(context)
    _, url, public = launch(page, options)
    say(f"Open {public or url} in a browser; Ctrl-C ends it. Runs are kept in {options.output}.")
    try:
        page.block_thread()
    finally:
        context.request_queue.close()


def make_context(options: AppOptions) -> AppContext:
    """Who serves the requests of an app."""
    # Read when Gradio is imported, or when it first writes.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str((Path(options.output) / FILES).resolve())
    from apps.web.app_context import AppContext

    silence_libraries()
    return AppContext(options)


def build_page(context: AppContext) -> Blocks:
    """The page, not yet served."""
    from apps.web.page import build

    return build(context)


def launch(page: Blocks, options: AppOptions) -> tuple[object, str, str | None]:
    """Start the server in a thread of its own; returns Gradio's app, local and public address."""
    from apps.web.page import theme

    found: tuple[object, str, str | None] = page.launch(
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
    return found


def check_port(host: str, port: int) -> None:
    """Refuse a port that somebody else listens on, or that may not be used.

    Raises:
        ConfigError: it is one of those.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"Port {port} of {host} cannot be used ({error.strerror or error}); choose another by "
            "--port, or 0 for a free one."
        ) from error


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
