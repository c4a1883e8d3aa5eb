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
from typing import TYPE_CHECKING, Literal

from gensift.canvas import Canvas, Disc, Line, Picture, Point, Rectangle, Text, curve
from gensift.stages import PromptTrace, Stage

if TYPE_CHECKING:
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

LINK_LAYER, WINNER_LINK_LAYER = 1.0, 2.0
INK, MUTED, FAINT, PALE, PAPER = "#1d2330", "#7c8496", "#c3c9d6", "#f5f6f9", "#ffffff"
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


def draw(prompts: Sequence[PromptTrace], images: Sequence[Mapping[int, Image]]) -> Canvas:
    """Return the tree with one panel per prompt; more than `MAX_PANELS` are only counted.

    `images` holds, per prompt, the finished pictures by candidate index.
    """
    panels, y = [], 0.0
    for number, prompt in enumerate(prompts[:MAX_PANELS]):
        finals = images[number] if number < len(images) else {}
        rows = _layout(prompt, finals, y + HEAD)
        panels.append((prompt, rows, y))
        y = (rows[-1].bottom if rows else y + HEAD) + PANEL_GAP
    canvas = Canvas(WIDTH, y + FOOT, PAPER)
    for prompt, rows, top in panels:
        _draw_panel(canvas, prompt, rows, top)
    _draw_legend(canvas, y, len(prompts) - len(panels))
    return canvas


def show(picture: Image) -> Figure:
    """Return a matplotlib figure that holds a painted tree and nothing else."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(picture.width / DPI, picture.height / DPI), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(picture, aspect="auto", interpolation="none")
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


def _draw_panel(canvas: Canvas, prompt: PromptTrace, rows: Sequence[_Row], top: float) -> None:
    title = " ".join(prompt.prompt.split()) or "(empty prompt)"
    wrapped = "\n".join(textwrap.wrap(title, 78, max_lines=2, placeholder=" …"))
    middle = top + HEAD * 0.42
    _label(canvas, (0.35, middle), wrapped, color=INK, size=13, bold=True)
    _label(canvas, (WIDTH - RIGHT, middle), _summary(prompt), horizontal="right")
    for (upper, lower), line in zip(pairwise(rows), pairwise(_lineage(prompt)), strict=True):
        _draw_links(canvas, upper, lower, prompt, line)
    for row in rows:
        is_final = row is rows[-1]
        _draw_stage_label(canvas, row)
        for candidate in row.shown:
            _draw_candidate(canvas, row, candidate, is_final and candidate == prompt.winner)


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


def _draw_stage_label(canvas: Canvas, row: _Row) -> None:
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
    top = middle - block / 2
    canvas.add(Text(at=(0.35, top), text=name, color=INK, size=10, bold=True, horizontal="left"))
    canvas.add(
        Text(
            at=(0.35, top + 0.19),
            text="\n".join(lines),
            color=MUTED,
            horizontal="left",
            line_spacing=1.35,
        )
    )


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
    canvas: Canvas,
    upper: _Row,
    lower: _Row,
    prompt: PromptTrace,
    line: tuple[int | None, int | None],
) -> None:
    for above, below in _links(upper, lower, prompt):
        is_winner = (above, below) == line
        start = (upper.x(above), upper.bottom + 0.03)
        end = (lower.x(below), lower.top - 0.05)
        color, width = (GOLD, 2.2) if is_winner else (FAINT, 1.3)
        layer = WINNER_LINK_LAYER if is_winner else LINK_LAYER
        canvas.add(Line(points=curve(start, end), color=color, width=width, layer=layer))


def _draw_candidate(canvas: Canvas, row: _Row, candidate: int, is_winner: bool) -> None:
    is_kept = candidate in row.stage.kept
    x, score = row.x(candidate), row.stage.combined[row.stage.alive.index(candidate)]
    left = x - row.width / 2
    image = row.images.get(candidate)
    if image is not None:
        _draw_picture(canvas, row, image, left, is_kept)
    else:
        _draw_box(canvas, row, candidate, left, is_kept)
    if is_winner:
        _draw_frame(canvas, row, left)
    if not is_kept:
        _draw_cross(canvas, left + row.width, row.top, row.size)
    color = INK if is_kept else MUTED
    below = row.top + row.height + row.font / 72 * 0.45 + FRAME_MARGIN * is_winner
    text = _score_text(score)
    canvas.add(Text(at=(x, below), text=text, color=color, size=row.font, bold=is_winner))


def _draw_picture(canvas: Canvas, row: _Row, image: Image, left: float, is_kept: bool) -> None:
    picture = image.convert("RGB" if is_kept else "L").convert("RGB")
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    # Fitted into the box, so that a picture of another shape than the first keeps its own.
    scale = min(row.width / picture.width, row.height / picture.height)
    width, height = picture.width * scale, picture.height * scale
    x, y = left + (row.width - width) / 2, row.top + (row.height - height) / 2
    box = (x, y, x + width, y + height)
    canvas.add(Picture(box=box, image=picture, opacity=1.0 if is_kept else 0.4))
    canvas.add(Rectangle(box=box, outline=FAINT, width=0.7, layer=4))


def _draw_box(canvas: Canvas, row: _Row, candidate: int, left: float, is_kept: bool) -> None:
    box = (left, row.top, left + row.width, row.top + row.height)
    rounding = 0.08 * row.size
    if is_kept:
        shade = _shade(row.stage.combined[row.stage.alive.index(candidate)], row.stage.combined)
        color = PAPER if shade > 0.4 else INK
        canvas.add(Rectangle(box=box, fill=_tint(shade), rounding=rounding, layer=3))
    else:
        color = MUTED
        dropped = Rectangle(
            box=box, fill=PALE, outline=FAINT, rounding=rounding, dashes=(3, 2), layer=3
        )
        canvas.add(dropped)
    size = min(max(row.size * 13, 7.0), 14.0)
    middle = left + row.width / 2, row.top + row.height / 2
    canvas.add(Text(at=middle, text=f"#{candidate}", color=color, size=size, vertical="center"))


def _draw_frame(canvas: Canvas, row: _Row, left: float) -> None:
    margin = min(FRAME_MARGIN, row.size * (PITCH - 1) / 2)
    right, bottom = left + row.width + margin, row.top + row.height + margin
    box = (left - margin, row.top - margin, right, bottom)
    canvas.add(Rectangle(box=box, outline=GOLD, width=3.0, rounding=0.05, layer=6))


def _draw_cross(canvas: Canvas, x: float, y: float, size: float) -> None:
    radius = min(max(0.12 * size, 0.07), 0.11)
    x, y = x - radius * 0.6, y + radius * 0.6  # inside the corner, clear of a neighbour's frame
    canvas.add(Disc(centre=(x, y), radius=radius, fill=PAPER, outline=CROSS, width=0.9))
    arm = radius * 0.42
    for slope in (-1, 1):
        ends = (x - arm, y - slope * arm), (x + arm, y + slope * arm)
        canvas.add(Line(points=ends, color=CROSS, width=1.2))


def _draw_legend(canvas: Canvas, top: float, hidden_prompts: int) -> None:
    y = top + FOOT * 0.35
    _draw_cross(canvas, 0.46, y - 0.042, 0.0)
    _label(canvas, (0.58, y), "sifted out")
    box = (1.42, y - 0.07, 1.42 + 0.14, y + 0.07)
    canvas.add(Rectangle(box=box, outline=GOLD, width=2.0))
    _label(canvas, (1.64, y), "winner")
    _label(canvas, (2.25, y), "number below: score, higher is better")
    if hidden_prompts > 0:
        more = f"{hidden_prompts} more prompts not shown"
        _label(canvas, (WIDTH - RIGHT, y), more, horizontal="right")


def _label(
    canvas: Canvas,
    at: Point,
    text: str,
    *,
    color: str = MUTED,
    size: float = 8.0,
    bold: bool = False,
    horizontal: Literal["left", "right"] = "left",
) -> None:
    """Lines of text whose middle is at `at`."""
    canvas.add(
        Text(
            at=at,
            text=text,
            color=color,
            size=size,
            bold=bold,
            horizontal=horizontal,
            vertical="center",
            line_spacing=1.2,
        )
    )


def _shade(score: float, scores: Sequence[float]) -> float:
    finite = [value for value in scores if math.isfinite(value)]
    if not math.isfinite(score) or max(finite) == min(finite):
        return 0.5 if math.isfinite(score) else 0.0
    return (score - min(finite)) / (max(finite) - min(finite))


def _tint(shade: float) -> str:
    pairs = zip(LOW, HIGH, strict=True)
    return "#" + "".join(f"{round(255 * (low + (high - low) * shade)):02x}" for low, high in pairs)


def _score_text(score: float) -> str:
    if not math.isfinite(score):
        return "NaN" if math.isnan(score) else str(score)
    return f"{score:.2f}" if 0.01 <= abs(score) < 100 or score == 0 else f"{score:.2g}"
