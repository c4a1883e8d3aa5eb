"""Episodes of a robot as HTML: where its hand went, what came of it, and how fast it planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

import numpy as np

from apps.web.encoding import picture_uri
from apps.web.grid import error_html, status_html
from apps.web.policy_work import Acted, Floats, PolicyComparison, PolicySnapshot
from samplers.policy.episode import ActedEpisode

Paths = Mapping[str, Sequence[Floats]]
VIEWS = (("from above", 0, 1), ("from the side", 1, 2))
"""Title of a view, and which of x, y, z (metres) go right and up in it."""
SIDE = 260
MARGIN = 0.05  # metres


def acting_html(snapshot: PolicySnapshot, before: int = 0) -> str:
    """Episodes as they stand."""
    if before:
        return status_html(f"Waiting: {before} before yours.")
    bar = '<progress class="gs-bar" aria-label="Progress"></progress>'
    status = status_html(snapshot.phase, f"{snapshot.seconds:.1f} s")
    return status + bar + paths_html(snapshot.paths or {}, snapshot.goals)


def comparison_html(found: PolicyComparison) -> str:
    """Figures, episodes one by one, and where the hands went."""
    sides = (found.plain, found.cached)
    paths = {side.name: side.paths for side in sides}
    return (
        status_html(f"{found.task}: compared")
        + _facts(found)
        + paths_html(paths, found.plain.goals)
        + _table(sides)
        + "".join(map(_strip, sides))
    )


def paths_html(paths: Paths, goals: Sequence[Floats]) -> str:
    """Where the hands of all robots went, in two views; goals are rings."""
    drawn = [path for episodes in paths.values() for path in episodes if len(path)]
    if not drawn:
        return ""
    points = np.concatenate([*drawn, *[goal[None] for goal in goals]])
    views = "".join(_view(title, axes, paths, goals, points) for title, *axes in VIEWS)
    names = "".join(
        f'<li class="gs-path-{number}">{escape(name)}</li>' for number, name in enumerate(paths)
    )
    return f'<div class="gs-paths">{views}<ul>{names}<li class="gs-goal">goal</li></ul></div>'


def _view(
    title: str,
    axes: Sequence[int],
    paths: Paths,
    goals: Sequence[Floats],
    points: Floats,
) -> str:
    low = points[:, axes].min(0) - MARGIN
    scale = SIDE / (points[:, axes].max(0) + MARGIN - low).max()

    def place(point: Floats) -> tuple[float, float]:
        right, up = (point[list(axes)] - low) * scale
        return round(float(right), 1), round(SIDE - float(up), 1)

    lines = "".join(
        f'<polyline class="gs-path-{number}" points="'
        + " ".join(f"{x},{y}" for x, y in map(place, path))
        + '"/>'
        for number, episodes in enumerate(paths.values())
        for path in episodes
    )
    rings = "".join(
        '<circle class="gs-goal" cx="{}" cy="{}" r="5"/>'.format(*place(g)) for g in goals
    )
    return (
        f'<figure><svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="Ways of the hands, '
        f'{title}">{rings}{lines}</svg><figcaption>{title}</figcaption></figure>'
    )


def _facts(found: PolicyComparison) -> str:
    plans, plain, cached = found.plans, found.plain, found.cached
    count, name = len(plain.episodes), escape(cached.name)
    facts = {
        "goals reached": f"{plain.successes} of {count} uncached, "
        f"{cached.successes} of {count} with {name}",
        "a plan takes": f"{1000 * median(plans.plain_s):.0f} ms uncached, "
        f"{1000 * median(plans.cached_s):.0f} ms with {name}",
        "faster": f"{plans.speedup:.2f} times, median of {len(plans.plain_s)} plans in turns, "
        "one robot",
        "action error": f"{100 * plans.error:.1f} % of the actions' size; other noise alone "
        f"makes {100 * plans.noise_error:.1f} %",
    }
    inner = "".join(f"<dt>{label}</dt><dd>{text}</dd>" for label, text in facts.items())
    return f'<dl class="gs-facts">{inner}</dl>'


def _table(sides: Sequence[Acted]) -> str:
    heads = "".join(f"<th scope='col'>{escape(side.name)}</th>" for side in sides)
    rows = "".join(
        f"<tr><th scope='row'>{pair[0].goal}</th>{''.join(map(_outcome, pair))}</tr>"
        for pair in zip(*(side.episodes for side in sides), strict=True)
    )
    return (
        f'<table class="gs-table"><thead><tr><th scope="col">goal</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _outcome(episode: ActedEpisode) -> str:
    if episode.is_success:
        return f'<td class="gs-right">✓ reached, {episode.steps} actions</td>'
    return f'<td class="gs-wrong">✗ not reached in {episode.steps}</td>'


def _strip(side: Acted) -> str:
    """Pictures of the best episode; or why there are none."""
    for episode in side.episodes:
        if episode.strip is not None:
            words = f"{side.name}, goal {episode.goal}"
            source = picture_uri(episode.strip)
            return (
                f'<h4>{escape(words)}</h4><div class="gs-sheet" tabindex="0">'
                f'<img src="{source}" alt="{escape(words, quote=True)}"></div>'
            )
        if episode.no_strip is not None:
            return error_html(episode.no_strip)
    return ""
