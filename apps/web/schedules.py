"""The schedule of a cache on the page."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from apps.web.encoding import figure_uri


@dataclass(frozen=True, kw_only=True)
class ShownSchedule:
    """What a cache did in a run.

    Attributes:
        name: of the cache.
        parts: for each part of the denoiser, the steps at which it is computed.
        num_steps: of the loop.
        calibrated_steps: of the loop that it was calibrated for.
    """

    name: str
    parts: Mapping[str, Sequence[int]]
    num_steps: int
    calibrated_steps: int

    @classmethod
    def of(cls, cache: Any) -> ShownSchedule:
        """Of a cache that was attached in a run."""
        num_steps = cache.clock.num_steps
        with warnings.catch_warnings():  # it has warned when it ran, and the page says it too
            warnings.simplefilter("ignore")
            parts = cache.config.with_steps(num_steps).schedule
        return cls(
            name=cache.name,
            parts=parts,
            num_steps=num_steps,
            calibrated_steps=cache.config.num_steps,
        )


def schedule_html(shown: ShownSchedule) -> str:
    """Parts of the denoiser by steps as a picture, and in words for who cannot see it."""
    from caches.picture import schedule_figure

    title = f"{shown.name}: what is computed when"
    figure = schedule_figure(shown.parts, shown.num_steps, title)
    words = "; ".join(
        f"{part}: computed at {len(updates)} of {shown.num_steps} steps"
        for part, updates in shown.parts.items()
    )
    figure.set_facecolor("white")
    source = figure_uri(figure, is_transparent=False)
    return (
        f'{_interpolated(shown)}<div class="gs-sheet" tabindex="0"><img src="{source}" '
        f'alt="{escape(words, quote=True)}"></div>'
    )


def _interpolated(shown: ShownSchedule) -> str:
    if shown.num_steps == shown.calibrated_steps:
        return ""
    return (
        f'<p class="gs-hint">Calibrated for {shown.calibrated_steps} steps: for {shown.num_steps} '
        "the schedule is interpolated, at an error that nobody measured before.</p>"
    )
