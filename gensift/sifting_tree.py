"""The sifting tree: a picture of who was alive at each stage and who was sifted out.

Rows run from noisy (top) to final (bottom). Candidates are placed around the winner by how long
they lived, so that the rows narrow like a funnel. All lengths are inches.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gensift.trace import PromptTrace, Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

MAX_COLUMNS = 16
MAX_PANELS = 12
DROPPED_COLUMNS = 4  # columns held free for dropped candidates when survivors would fill a row
DPI = 160
WIDTH, LEFT, RIGHT = 11.0, 1.45, 0.35
MAX_SIZE, FINAL_SIZE = 1.15, 1.6  # of a thumbnail
PITCH = 1.2  # distance of thumbnails over their size
HEAD, FOOT, ROW_GAP, PANEL_GAP = 1.0, 0.45, 0.45, 0.3
THUMBNAIL_PIXELS = 256
FRAME_MARGIN = 0.05
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"

INK, MUTED, FAINT, PAPER = "#1d2330", "#7c8496", "#c3c9d6", "#ffffff"
GOLD, CROSS = "#dd9a00", "#b3261e"
LOW, HIGH = (0.90, 0.93, 0.98), (0.16, 0.36, 0.66)  # RGB of the lowest and highest score


@dataclass(frozen=True)
class _Row:
    """One stage laid out: `shown` candidates from best to worst, their top edge and size."""

    stage: Stage
    shown: tuple[int, ...]
    top: float
    size: float
    images: Mapping[int, Image]

    def x(self, candidate: int) -> float:
        """Centre of a column: the best in the middle, the others alternately right and left."""
        rank = self.shown.index(candidate)
        offset = (rank + 1) // 2 * (1 if rank % 2 else -1)
        return LEFT + (WIDTH - LEFT - RIGHT) / 2 + offset * self.size * PITCH

    @property
    def width(self) -> float:
        """Width of a thumbnail; less than `size` for tall pictures."""
        return self.size * min(1.0, self._aspect)

    @property
    def height(self) -> float:
        """Height of a thumbnail; less than `size` for wide pictures."""
        return self.size / max(1.0, self._aspect)

    @property
    def _aspect(self) -> float:
        aspects = [image.width / image.height for image in self.images.values()]
        return aspects[0] if aspects else 1.0

    @property
    def font(self) -> float:
        """Size of the score text, points."""
        return min(max(self.size * 11, 7.0), 10.5)

    @property
    def bottom(self) -> float:
        """Lower edge, score text included."""
        return self.top + self.height + self.font / 72 * 1.7


def draw(prompts: Sequence[PromptTrace], images: Sequence[Mapping[int, Image]]) -> Figure:
    """Return the figure with one panel per prompt; more than `MAX_PANELS` are only counted."""
    from matplotlib.figure import Figure

    panels, y = [], 0.0
    for number, prompt in enumerate(prompts[:MAX_PANELS]):
        finals = images[number] if number < len(images) else {}
        rows = _layout(prompt, finals, y + HEAD)
        panels.append((prompt, rows, y))
        y = (rows[-1].bottom if rows else y + HEAD) + PANEL_GAP
    height = y + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for prompt, rows, top in panels:
        _draw_panel(axes, prompt, rows, top)
    _draw_legend(axes, y, len(prompts) - len(panels))
    # Set last, because imshow moves them; one data unit is one inch, y pointing down.
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)
    axes.axis("off")
    return figure


def _layout(prompt: PromptTrace, finals: Mapping[int, Image], top: float) -> list[_Row]:
    priority = _priority(prompt)
    rows = []
    for stage in prompt.stages:
        shown = tuple(_shown(stage, priority))
        is_last = stage is prompt.stages[-1]
        slot = (WIDTH - LEFT - RIGHT) / (len(shown) // 2 * 2 + 1)
        size = min(slot / PITCH, FINAL_SIZE if is_last else MAX_SIZE)
        pictures = {**stage.previews, **(finals if is_last else {})}
        rows.append(_Row(stage, shown, top, size, pictures))
        top = rows[-1].bottom + ROW_GAP
    return rows


def _priority(prompt: PromptTrace) -> list[int]:
    """Return all candidates, the winner first, then by how long they lived and how they scored."""
    order: dict[int, None] = {}
    if prompt.winner is not None:
        order[prompt.winner] = None
    for stage in reversed(prompt.stages):
        kept_first = sorted(stage.ranking, key=lambda c: c not in stage.kept)
        order |= dict.fromkeys(c for c in kept_first if c not in order)
    return list(order)


def _shown(stage: Stage, priority: Sequence[int]) -> list[int]:
    alive = [candidate for candidate in priority if candidate in stage.alive]
    if len(alive) <= MAX_COLUMNS:
        return alive
    kept = [candidate for candidate in alive if candidate in stage.kept]
    dropped = [candidate for candidate in alive if candidate not in stage.kept]
    room = max(MAX_COLUMNS - len(kept), min(DROPPED_COLUMNS, len(dropped)))
    return kept[: MAX_COLUMNS - room] + dropped[:room]


def _draw_panel(axes: Axes, prompt: PromptTrace, rows: Sequence[_Row], top: float) -> None:
    title = " ".join(prompt.prompt.split()) or "(empty prompt)"
    wrapped = "\n".join(textwrap.wrap(title, 78, max_lines=2, placeholder=" …"))
    middle = top + HEAD * 0.42
    _text(axes, 0.35, middle, wrapped, size=13, weight="bold", ha="left", va="center")
    _text(axes, WIDTH - RIGHT, middle, _summary(prompt), color=MUTED, ha="right", va="center")
    for (upper, lower), line in zip(pairwise(rows), pairwise(_lineage(prompt)), strict=True):
        _draw_links(axes, upper, lower, prompt, line)
    for row in rows:
        is_final = row is rows[-1]
        _draw_stage_label(axes, row)
        for candidate in row.shown:
            _draw_candidate(axes, row, candidate, is_final and candidate == prompt.winner)


def _lineage(prompt: PromptTrace) -> list[int | None]:
    """Per stage the candidate from which the winner descends; None where its line is not there."""
    heir, line = prompt.winner, [prompt.winner]
    for stage in reversed(prompt.stages[:-1]):
        elders = [] if heir is None else list(reversed(prompt.ancestry(heir)))
        found = next((at for e in elders if (at := stage.parent(e)) is not None), None)
        line.append(found)
        heir = heir if found is None else found
    return line[::-1]


def _summary(prompt: PromptTrace) -> str:
    winner = prompt.winner
    if winner is None:
        return f"{len(prompt.seeds)} candidates\nno survivor"
    # Where candidates were copied, a seed only names the place that the winner ended in.
    name = "seed" if all(stage.parents is None for stage in prompt.stages) else "slot seed"
    seed = f"\n{name} {prompt.seeds[winner]}" if winner < len(prompt.seeds) else ""
    line = prompt.ancestry(winner)
    if len(line) > 1:
        # The seed of a refined winner alone does not give it again.
        seed = f"\nfrom {' → '.join(f'#{c}' for c in line[:-1][-4:])}"
    return f"winner #{winner} of {len(prompt.seeds)}{seed}"


def _draw_stage_label(axes: Axes, row: _Row) -> None:
    stage = row.stage
    unit = "step" if stage.grid is None else "scale"
    name = "final" if stage.is_final else f"{unit} {stage.step_index + 1}"
    if stage.round is not None:
        name = f"round {stage.round}" if stage.is_final else f"{stage.round}: {name}"
    lines = [f"of {stage.num_inference_steps}"] if not stage.is_final else []
    if stage.grid is not None and not stage.is_final:
        lines[0] += f"  ·  {stage.grid[0]}x{stage.grid[1]} tokens"
    if stage.sigma is not None and not stage.is_final:
        lines[0] += f"  ·  {SIGMA} {stage.sigma:.2f}"
    lines.append(f"{len(stage.alive)} → {len(stage.kept)}")
    hidden = len(stage.alive) - len(row.shown)
    if hidden:
        lines.append(f"{hidden} not shown")
    middle = row.top + row.height / 2
    block = 0.155 * (len(lines) + 1)
    _text(axes, 0.35, middle - block / 2, name, size=10, weight="bold", ha="left")
    body = middle - block / 2 + 0.19
    _text(axes, 0.35, body, "\n".join(lines), size=8, color=MUTED, ha="left", linespacing=1.35)


def _links(upper: _Row, lower: _Row, prompt: PromptTrace) -> list[tuple[int, int]]:
    """Pairs (above, below) of who went on as whom: itself, a copy, or one made from it."""
    links = []
    for below in lower.shown:
        above = upper.stage.parent(below)
        if above is None and below not in upper.stage.alive and prompt.parents:
            elder = prompt.parents[below]
            above = elder if elder in upper.stage.kept else None
        if above is not None and above in upper.shown:
            links.append((above, below))
    return links


def _draw_links(
    axes: Axes,
    upper: _Row,
    lower: _Row,
    prompt: PromptTrace,
    line: tuple[int | None, int | None],
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    for above, below in _links(upper, lower, prompt):
        is_winner = (above, below) == line
        start = (upper.x(above), upper.bottom + 0.03)
        end = (lower.x(below), lower.top - 0.05)
        half = (start[1] + end[1]) / 2
        points = [start, (start[0], half), (end[0], half), end]
        path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        color, width = (GOLD, 2.2) if is_winner else (FAINT, 1.3)
        style = {"edgecolor": color, "linewidth": width, "zorder": 2.0 if is_winner else 1.0}
        axes.add_patch(PathPatch(path, fill=False, capstyle="round", **style))


def _draw_candidate(axes: Axes, row: _Row, candidate: int, is_winner: bool) -> None:
    is_kept = candidate in row.stage.kept
    x, score = row.x(candidate), row.stage.combined[row.stage.alive.index(candidate)]
    left = x - row.width / 2
    image = row.images.get(candidate)
    if image is not None:
        _draw_picture(axes, row, image, left, is_kept)
    else:
        _draw_box(axes, row, candidate, left, is_kept)
    if is_winner:
        _draw_frame(axes, row, left)
    if not is_kept:
        _draw_cross(axes, left + row.width, row.top, row.size)
    color, weight = (INK, "bold") if is_winner else (INK if is_kept else MUTED, "normal")
    below = row.top + row.height + row.font / 72 * 0.45 + FRAME_MARGIN * is_winner
    _text(axes, x, below, _score_text(score), size=row.font, color=color, weight=weight)


def _draw_picture(axes: Axes, row: _Row, image: Image, left: float, is_kept: bool) -> None:
    picture = image.convert("RGB" if is_kept else "L").convert("RGB")
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    # Fitted into the box, so that a picture of another shape than the first keeps its own.
    scale = min(row.width / picture.width, row.height / picture.height)
    width, height = picture.width * scale, picture.height * scale
    x, y = left + (row.width - width) / 2, row.top + (row.height - height) / 2
    box = (x, x + width, y + height, y)
    alpha = 1.0 if is_kept else 0.4
    axes.imshow(picture, extent=box, interpolation="bicubic", aspect="auto", alpha=alpha, zorder=3)
    _rectangle(axes, x, y, width, height, edgecolor=FAINT, linewidth=0.7, fill=False, zorder=4)


def _draw_box(axes: Axes, row: _Row, candidate: int, left: float, is_kept: bool) -> None:
    shade = _shade(row.stage.combined[row.stage.alive.index(candidate)], row.stage.combined)
    fill = tuple(low + (high - low) * shade for low, high in zip(LOW, HIGH, strict=True))
    style: dict[str, Any] = {"facecolor": fill, "edgecolor": "none", "zorder": 3}
    color = PAPER if shade > 0.4 else INK
    if not is_kept:
        style |= {"facecolor": "#f5f6f9", "edgecolor": FAINT, "linestyle": (0, (3, 2))}
        color = MUTED
    _rectangle(axes, left, row.top, row.width, row.height, rounding=0.08 * row.size, **style)
    size = min(max(row.size * 13, 7.0), 14.0)
    x, y = left + row.width / 2, row.top + row.height / 2
    _text(axes, x, y, f"#{candidate}", size=size, color=color, va="center")


def _draw_frame(axes: Axes, row: _Row, left: float) -> None:
    margin = min(FRAME_MARGIN, row.size * (PITCH - 1) / 2)
    width, height = row.width + 2 * margin, row.height + 2 * margin
    style = {"edgecolor": GOLD, "linewidth": 3.0, "fill": False, "zorder": 6}
    _rectangle(axes, left - margin, row.top - margin, width, height, rounding=0.05, **style)


def _draw_cross(axes: Axes, x: float, y: float, size: float) -> None:
    from matplotlib.patches import Circle

    radius = min(max(0.12 * size, 0.07), 0.11)
    x, y = x - radius * 0.6, y + radius * 0.6  # inside the corner, clear of a neighbour's frame
    circle = Circle((x, y), radius, facecolor=PAPER, edgecolor=CROSS, linewidth=0.9, zorder=7)
    axes.add_patch(circle)
    arm = radius * 0.42
    for slope in (-1, 1):
        ys = (y - slope * arm, y + slope * arm)
        axes.plot((x - arm, x + arm), ys, color=CROSS, linewidth=1.2, zorder=8)


def _draw_legend(axes: Axes, top: float, hidden_prompts: int) -> None:
    y = top + FOOT * 0.35
    _draw_cross(axes, 0.46, y - 0.042, 0.0)
    _text(axes, 0.58, y, "sifted out", color=MUTED, ha="left", va="center")
    _rectangle(axes, 1.42, y - 0.07, 0.14, 0.14, edgecolor=GOLD, linewidth=2.0, fill=False)
    _text(axes, 1.64, y, "winner", color=MUTED, ha="left", va="center")
    _text(
        axes, 2.25, y, "number below: score, higher is better", color=MUTED, ha="left", va="center"
    )
    if hidden_prompts > 0:
        more = f"{hidden_prompts} more prompts not shown"
        _text(axes, WIDTH - RIGHT, y, more, color=MUTED, ha="right", va="center")


def _shade(score: float, scores: Sequence[float]) -> float:
    finite = [value for value in scores if math.isfinite(value)]
    if not math.isfinite(score) or max(finite) == min(finite):
        return 0.5 if math.isfinite(score) else 0.0
    return (score - min(finite)) / (max(finite) - min(finite))


def _score_text(score: float) -> str:
    if not math.isfinite(score):
        return "NaN" if math.isnan(score) else str(score)
    return f"{score:.2f}" if 0.01 <= abs(score) < 100 or score == 0 else f"{score:.2g}"


def _rectangle(
    axes: Axes, x: float, y: float, width: float, height: float, rounding: float = 0.0, **style: Any
) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = f"round,pad=0,rounding_size={rounding}" if rounding else "square,pad=0"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, **style))


def _text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    defaults: dict[str, Any] = {"size": 8.0, "color": INK, "ha": "center", "va": "top"}
    # A dollar sign in a prompt is no formula.
    axes.text(x, y, text, parse_math=False, zorder=9, **(defaults | style))
