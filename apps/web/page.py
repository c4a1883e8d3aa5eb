"""The page: a header, the tabs, and what happens when a visitor comes and goes."""

from __future__ import annotations

import gradio as gr

from apps.web.app_context import AppContext
from apps.web.choosing import session_of
from apps.web.tabs import tabs

KEPT_S = 3600
"""Seconds that Gradio keeps a served file."""
HEAD = (
    '<header class="gs-head"><h1>gensift</h1>'
    "<p>Sift among generations: watch who is dropped, and why one wins.</p></header>"
)


def build(context: AppContext) -> gr.Blocks:
    """The page, not yet served: a Gradio `Blocks`."""

    def leave(request: gr.Request) -> None:
        """Stop the work of a visitor who closes the page."""
        context.request_queue.cancel(session_of(request))

    page: gr.Blocks
    with gr.Blocks(
        title="gensift", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S), fill_width=True
    ) as page:
        gr.HTML(HEAD)
        for title, build_tab in tabs():
            with gr.Tab(title, id=title.lower(), elem_id=f"tab-{title.lower()}"):
                build_tab(context)
        page.load(context.warm_up, api_visibility="private", queue=False)
        page.unload(leave)
    waiting = 2 * context.options.max_waiting
    page.queue(max_size=waiting, default_concurrency_limit=waiting)
    return page


def theme() -> gr.themes.Base:
    """Plain, with the fonts of the system: nothing is fetched from elsewhere."""
    found = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    return found.set(
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
