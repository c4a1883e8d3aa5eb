"""Texts as HTML: forming, scored, and compared with each other. All text is escaped."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from html import escape

from apps.web.grid import score_text, status_html
from apps.web.text_search import Answers, TextSnapshot
from gensift.errors import ConfigError
from gensift.zoo.catalog import checker_of

MAX_MAPPED = 24
"""Texts of a similarity map; more would not be readable."""


def forming_html(snapshot: TextSnapshot, before: int = 0) -> str:
    """Texts as they stand."""
    if before:
        return status_html(f"Waiting: {before} before yours.")
    aside = f"step {snapshot.step}, {snapshot.seconds:.1f} s" if snapshot.step else ""
    bar = ""
    if snapshot.total:
        bar = (
            f'<progress class="gs-bar" aria-label="Progress" max="{snapshot.total}" '
            f'value="{snapshot.done}"></progress>'
        )
    return status_html(snapshot.phase, aside) + bar + _list(snapshot.texts)


def step_html(columns: Sequence[tuple[str, Sequence[str]]], step: int) -> str:
    """The texts of some samplers after a step."""
    parts = [f"<div><h4>{escape(name)}</h4>{_list(texts)}</div>" for name, texts in columns]
    return f'{status_html(f"After step {step}")}<div class="gs-answers">{"".join(parts)}</div>'


def answers_html(found: Sequence[Answers]) -> str:
    """The answers of each sampler, side by side, with marks."""
    return f'<div class="gs-answers">{"".join(map(_column, found))}</div>'


def similarity(left: str, right: str) -> float:
    """Share of words that two texts have in common in the same order, 0 to 1.

    Twice the words of the longest matching blocks, over all words (Ratcliff and Obershelp).
    """
    matcher = difflib.SequenceMatcher(None, left.split(), right.split(), autojunk=False)
    return matcher.ratio()


def mean_similarity(texts: Sequence[str]) -> float:
    """Mean over all pairs of different places; 0 for fewer than two texts."""
    pairs = [
        similarity(texts[i], texts[j]) for i in range(len(texts)) for j in range(i + 1, len(texts))
    ]
    return sum(pairs) / len(pairs) if pairs else 0.0


def maps_html(found: Sequence[Answers]) -> str:
    """How alike the texts of each sampler are, as a table of percent."""
    return f'<div class="gs-answers">{"".join(map(_map, found))}</div>'


def _column(found: Answers) -> str:
    seen: set[str] = set()
    items = []
    for at, text in enumerate(found.texts):
        form = _form(text, found.scorer)
        is_again = form in seen
        seen.add(form)
        mark = _mark(found, at)
        again = ' <span class="gs-fate">again</span>' if is_again else ""
        kind = ' class="gs-again"' if is_again else ""
        items.append(f"<li{kind}>{escape(text)}{mark}{again}</li>")
    return (
        f"<div><h4>{escape(found.sampler)}</h4><p class='gs-hint'>{escape(_summary(found))}</p>"
        f'<ol start="0">{"".join(items)}</ol></div>'
    )


def _summary(found: Answers) -> str:
    forms = [_form(text, found.scorer) for text in found.texts]
    words = f"{len(found.texts)} answers, {len(set(forms))} different"
    if checker_of(found.scorer) is not None:
        right = [form for form, reward in zip(forms, found.rewards, strict=True) if reward > 0]
        ways = len(set(right))
        words = f"{len(right)} of {len(forms)} right, by {ways} way{'s' if ways != 1 else ''}"
    return f"{words}; {found.cost.total_seconds:.1f} s, {found.cost.nfe} model rows"


def _form(text: str, scorer: str) -> str:
    """What counts as the same answer: the normal form of it, where the task has one."""
    checker = checker_of(scorer)
    if checker is not None:
        with suppress(ConfigError):
            return checker.normal_form(text)
    return " ".join(text.split())


def _mark(found: Answers, at: int) -> str:
    if not found.rewards:
        return ""
    reward = found.rewards[at]
    if checker_of(found.scorer) is None:
        return f' <span class="gs-mark">{score_text(reward)}</span>'
    name, kind = ("right", "gs-right") if reward > 0 else ("wrong", "gs-wrong")
    sign = "✓" if reward > 0 else "✗"
    return f' <span class="gs-mark {kind}">{sign} {name}</span>'


def _list(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<div class="gs-answers"><ol start="0" aria-label="Texts">{items}</ol></div>'


def _map(found: Answers) -> str:
    texts = found.texts[:MAX_MAPPED]
    head = "".join(f"<th scope='col'>{i}</th>" for i in range(len(texts)))
    rows = []
    for i, left in enumerate(texts):
        cells = "".join(_cell(similarity(left, right)) for right in texts)
        rows.append(f"<tr><th scope='row'>{i}</th>{cells}</tr>")
    mean = mean_similarity(found.texts)
    return (
        f"<div class='gs-sheet' tabindex='0'><h4>{escape(found.sampler)}</h4>"
        f"<p class='gs-hint'>Mean similarity {100 * mean:.0f} %</p>"
        f'<table class="gs-map"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(share: float) -> str:
    return f'<td style="background: rgba(74, 127, 208, {share:.2f})">{100 * share:.0f}</td>'
