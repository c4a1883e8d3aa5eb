"""The live view as HTML: status, work so far, and a card per candidate. All text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from apps.web.live import Card, Snapshot, StageRow

MAX_CARDS = 96


def live_html(snapshot: Snapshot, before: int = 0, *, is_over: bool = False) -> str:
    """The whole view.

    Args:
        snapshot: what there is to show.
        before: requests that are worked on first.
        is_over: whether nothing will change any more.
    """
    if before:
        others = "1 request is" if before == 1 else f"{before} requests are"
        return status_html(f"Waiting: {others} before yours.")
    if is_over:
        return _counts(snapshot) + _grid(snapshot.cards)
    return "".join(
        (
            status_html(f"{snapshot.phase}{_progress_words(snapshot)}", _best(snapshot)),
            _bar(snapshot),
            _counts(snapshot),
            _grid(snapshot.cards),
        )
    )


def status_html(text: str, aside: str = "") -> str:
    """One line that says what is going on."""
    more = f'<span class="gs-aside">{escape(aside)}</span>' if aside else ""
    return f'<p class="gs-status" role="status">{escape(text)}{more}</p>'


def stopped_html(seconds: float) -> str:
    """Says that the work was stopped on request."""
    return status_html(f"Stopped after {seconds:.1f} s. The model is free again.")


def error_html(text: str) -> str:
    """One line that says what was wrong."""
    return f'<p class="gs-error" role="alert"><strong>Not done.</strong> {escape(text)}</p>'


def stages_html(stages: Sequence[StageRow]) -> str:
    """The stages as a table, the sifting tree in words."""
    rows = "".join(
        f"<tr><td>{escape(v.name)}</td><td>{v.scored}</td><td>{v.kept}</td>"
        f"<td>{score_text(v.best)}</td></tr>"
        for v in stages
    )
    heads = "".join(f"<th scope='col'>{h}</th>" for h in ("after", "scored", "kept", "best score"))
    return f'<table class="gs-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def score_text(score: float | None) -> str:
    """A score as it stands below a picture."""
    if score is None:
        return "not scored yet"
    if not math.isfinite(score):
        return str(score)
    return f"{score:.3f}"


def _progress_words(snapshot: Snapshot) -> str:
    if not snapshot.total:
        return ""
    return f", {100 * snapshot.done // snapshot.total} %"


def _best(snapshot: Snapshot) -> str:
    alive = [card for card in snapshot.cards if not card.is_out]
    scores = [card.score for card in alive if card.score is not None and math.isfinite(card.score)]
    words = f"{len(alive)} of {len(snapshot.cards)} still in" if snapshot.cards else ""
    return f"{words}, best score {max(scores):.3f}" if scores else words


def _bar(snapshot: Snapshot) -> str:
    if not snapshot.total:
        return '<progress class="gs-bar" aria-label="Progress"></progress>'
    return (
        f'<progress class="gs-bar" aria-label="Progress" max="{snapshot.total}" '
        f'value="{snapshot.done}"></progress>'
    )


def _counts(snapshot: Snapshot) -> str:
    items = {name: f"{done} of {total}" for name, (done, total) in snapshot.counts.items()}
    items["seconds"] = f"{snapshot.seconds:.1f}"
    inner = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in items.items()
    )
    return f'<dl class="gs-counts">{inner}</dl>'


def _grid(cards: Sequence[Card]) -> str:
    shown = cards
    if len(cards) > MAX_CARDS:  # who is out gives way first
        alive = [card for card in cards if not card.is_out][-MAX_CARDS:]
        out = [card for card in cards if card.is_out]
        room = MAX_CARDS - len(alive)
        shown = sorted([*alive, *(out[-room:] if room else [])], key=lambda card: card.index)
    more = (
        f"<p>{len(cards) - len(shown)} more are not shown.</p>" if len(shown) < len(cards) else ""
    )
    items = "".join(map(_card, shown))
    return f'<ol class="gs-grid" aria-label="Candidates">{items}</ol>{more}'


def _card(card: Card) -> str:
    kind = "gs-out" if card.is_out else "gs-winner" if card.fate == "winner" else ""
    score = score_text(card.score) if card.score is not None else ""
    when = f", {card.made_at}" if card.made_at else ""
    picture = '<div class="gs-empty" aria-hidden="true"></div>'
    if card.picture:
        alt = escape(f"Candidate {card.index}{when}", quote=True)
        picture = f'<img src="{card.picture}" alt="{alt}" title="{alt}">'
    fate = escape(card.fate) or "in the running"
    return (
        f'<li class="gs-card {kind}">{picture}'
        f'<div class="gs-caption"><b>#{card.index}</b> <span>{score}</span></div>'
        f'<div class="gs-fate">{fate}</div></li>'
    )
