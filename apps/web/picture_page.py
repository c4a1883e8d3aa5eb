"""The lower half of the Pictures tab: the winner, and why it won."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr
from gradio.components import Component

from apps.web import budget
from apps.web.encoding import data_uri, figure_uri, picture_uri
from apps.web.grid import score_text, stages_html
from apps.web.live import Snapshot
from apps.web.picture_search import FoundPicture

NOT_BY_SEED = (
    "# This search copies or changes candidates on the way, so no plain call gives its winner.\n"
    "# The command on the next tab does."
)


@dataclass(frozen=True)
class OutcomePage:
    """The components that show a result, and what fills them."""

    components: list[Component]

    def empty(self) -> list[object]:
        """Nothing to show yet."""
        return [gr.update(visible=False), *(gr.skip() for _ in self.components[1:])]

    def unchanged(self) -> list[object]:
        """Leave all as it is."""
        return [gr.skip() for _ in self.components]

    def filled(self, found: FoundPicture, snapshot: Snapshot) -> list[object]:
        """A result."""
        return [
            gr.update(visible=True),
            winner_html(found),
            str(found.seed),
            found.code or NOT_BY_SEED,
            found.command,
            tree_html(found),
            stages_html(snapshot.stages),
            budget_html(found),
        ]


def build() -> OutcomePage:
    """Build the components in the current block, hidden."""
    with gr.Column(visible=False, elem_id="picture-outcome") as column:
        winner = gr.HTML(elem_id="picture-winner")
        with gr.Tabs():
            with gr.Tab("Plain diffusers"):
                code = gr.Code(
                    language="python",
                    label="Reproduce with plain diffusers",
                    interactive=False,
                    elem_id="picture-code",
                )
            with gr.Tab("Command line"):
                command = gr.Code(
                    language="shell", label="The same search as a command", interactive=False
                )
        seed = gr.Textbox(
            label="Seed of the winner", interactive=False, buttons=["copy"], elem_id="picture-seed"
        )
        gr.Markdown("### Who was dropped when")
        tree = gr.HTML(elem_id="picture-tree")
        with gr.Accordion("The same as a table", open=False):
            stages = gr.HTML(elem_id="picture-stages")
        gr.Markdown("### Reward against budget")
        plot = gr.HTML(elem_id="picture-budget")
    return OutcomePage([column, winner, seed, code, command, tree, stages, plot])


def winner_html(found: FoundPicture) -> str:
    """The winner, large, and the facts about it."""
    first = "" if found.first_reward is None else score_text(found.first_reward)
    facts = {
        "reward": score_text(found.reward),
        "first candidate": first or "was dropped early",
        "denoiser rows": f"{found.cost.nfe} spent, {found.planned.nfe} planned",
        "tokens": f"{found.cost.tokens} spent" if found.cost.tokens else "",
        "decodes": f"{found.cost.decodes} full, {found.cost.preview_decodes} small",
        "seconds": f"{found.cost.total_seconds:.1f}",
        "run": found.folder.name,
    }
    if not found.cost.nfe:
        del facts["denoiser rows"]
    inner = "".join(
        f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
    )
    prompt = escape(found.prompt, quote=True)
    return (
        f'<figure class="gs-result"><img src="{picture_uri(found.picture)}" alt="{prompt}">'
        f'<figcaption><h3>{prompt}</h3><dl class="gs-facts">{inner}</dl></figcaption></figure>'
    )


def tree_html(found: FoundPicture) -> str:
    """The sifting tree that the run folder holds."""
    file = found.folder / "trace.png"
    if not file.is_file():
        return "<p>The search had nothing to choose by, so there is no tree.</p>"
    source = data_uri(file.read_bytes(), "image/png")
    words = "Sifting tree: the candidates at each stage, who was kept, and the winner."
    return f'<div class="gs-sheet" tabindex="0"><img src="{source}" alt="{words}"></div>'


def budget_html(found: FoundPicture) -> str:
    """The plot of reward against budget, and what it says."""
    if not found.rows_per_candidate or not found.cost.nfe:
        return "<p>This model draws tokens, not denoiser rows; there is no such plot yet.</p>"
    curve = budget.best_of_n(found.trace, found.rows_per_candidate)
    text = escape(budget.words(curve, found.cost.nfe, found.reward))
    if not curve:
        return f"<p>{text}</p>"
    figure = budget.draw(curve, found.cost.nfe, found.reward)
    return f'<img class="gs-plot" src="{figure_uri(figure)}" alt="{text}"><p>{text}</p>'
