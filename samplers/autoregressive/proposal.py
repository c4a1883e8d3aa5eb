"""From a consistency curve to the scales that TTS-VAR selects at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gensift.protocols import JsonObject
from samplers.autoregressive.consistency import Agreement
from samplers.autoregressive.schedule import (
    AFTER,
    FEWEST_SCALES,
    SearchSchedule,
    default_selections,
    falling_widths,
)

THRESHOLD = 0.6
"""Spearman from which rewards may choose: what the published curve reaches where TTS-VAR resamples
for the first time; before, it stays below 0.3."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Where to select.

    Attributes:
        schedule: scales and widths; without any selection where best-of-N is proposed.
        reason: one sentence.
    """

    schedule: SearchSchedule
    reason: str

    def generate_config(self) -> JsonObject:
        """What `generate --config` takes."""
        schedule = self.schedule
        if not schedule.selections:
            return {"sampler": "var-best-of-n"}
        options = {
            "cluster_scales": list(schedule.cluster_scales),
            "resample_scales": list(schedule.resample_scales),
            "widths": list(schedule.widths),
        }
        return {"sampler": "tts-var", "options": options}


def propose(curve: Sequence[Agreement], threshold: float = THRESHOLD) -> Proposal:
    """Scales to cluster and to resample at.

    Resampling begins at the first scale from which the Spearman correlation within prompts stays at
    the threshold or above, and is done once more midway to the end. Clusters are formed at the
    scale before, and midway between the first scale and that one. On the published curve these are
    the published scales: clusters at 2 and 5, resampling at 6 and 9 of 13.

    Args:
        curve: one entry per scale.
        threshold: of the correlation.
    """
    num_scales = len(curve)
    if num_scales < 3:
        reason = (
            f"the model has {num_scales} scale(s), and candidates can be chosen among only between "
            "the first and the last; draw best-of-N"
        )
        return Proposal(schedule=schedule_of(num_scales, (), ()), reason=reason)
    first = first_telling_scale(curve, threshold)
    if first is None:
        return _without_rewards(num_scales, threshold)
    resamples = _ascending(first, (first + num_scales - 1) // 2)
    clusters = _ascending((first - 1) // 2, first - 1)
    found = curve[first]
    reason = (
        f"from scale {first} on the Spearman correlation is {threshold:g} or more "
        f"({found.spearman:.2f} there, 95 % {found.low:.2f} to {found.high:.2f})"
    )
    room = len(resamples) + len(clusters)
    if room < len(AFTER):
        reason += f"; of the published {len(AFTER)} selections {room} find a scale of their own"
    return Proposal(schedule=schedule_of(num_scales, clusters, resamples), reason=reason)


def first_telling_scale(curve: Sequence[Agreement], threshold: float) -> int | None:
    """The first scale between the first and the last from which on all pass the threshold."""
    found = None
    for agreement in reversed(curve[1:-1]):
        # NaN passes nothing.
        if not agreement.spearman >= threshold:
            break
        found = agreement.scale
    return found


def schedule_of(
    num_scales: int, clusters: tuple[int, ...], resamples: tuple[int, ...]
) -> SearchSchedule:
    """With the published widths, or as many of the last as there are selections."""
    widths = falling_widths(num_scales, clusters + resamples)
    return SearchSchedule(widths, clusters, resamples)


def _without_rewards(num_scales: int, threshold: float) -> Proposal:
    reason = (
        f"at no scale before the end does the Spearman correlation stay at {threshold:g} or above, "
        "so rewards tell too little to resample by"
    )
    if num_scales < FEWEST_SCALES:
        reason += f"; {num_scales} scales are too few for clusters alone, so draw best-of-N"
        return Proposal(schedule=schedule_of(num_scales, (), ()), reason=reason)
    clusters, _ = default_selections(num_scales)
    reason += "; form clusters only, where the published ones lie, or draw best-of-N"
    return Proposal(schedule=schedule_of(num_scales, clusters, ()), reason=reason)


def _ascending(*scales: int) -> tuple[int, ...]:
    """Those that candidates can be chosen after, each once; not after the first scale."""
    return tuple(sorted({scale for scale in scales if scale > 0}))
