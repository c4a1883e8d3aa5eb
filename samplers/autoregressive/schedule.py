"""How many candidates live at each scale, and where they are chosen among.

Source: TTS-VAR, arXiv 2507.18537, section 4.1. A width is counted in units of N, the candidates
that are drawn to the end, and stands for what remains *after* the selection at the end of a scale;
a scale itself is drawn with the width before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gensift.errors import ConfigError

START, AFTER = 8, (6, 4, 2, 1)
"""Published widths: at first, and after each of the four selections."""
FEWEST_SCALES = 6
"""That the published selections can be moved to."""
_FRACTIONS = (2 / 12, 5 / 12, 6 / 12, 9 / 12)
"""Where the published selections lie among 13 scales: two by clusters, two by rewards."""


@dataclass(frozen=True)
class SearchSchedule:
    """Widths and selections over the scales of one model.

    Attributes:
        widths: after each scale, in units of N; never growing, 1 at the end.
        cluster_scales: indices of the scales after which clusters are formed.
        resample_scales: those after which rewards decide.
    """

    widths: tuple[int, ...]
    cluster_scales: tuple[int, ...] = ()
    resample_scales: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError.from_problems("Search schedule", problems)

    def _problems(self) -> list[str]:
        last = len(self.widths) - 1
        selections = self.cluster_scales + self.resample_scales
        outside = [scale for scale in selections if not 0 < scale < last]
        if outside:
            return [
                f"scale {outside[0]} is among the selections; the model's {last + 1} scales are "
                f"counted from 0, and candidates can be chosen after scales 1 to {last - 1}"
            ]
        twice = sorted({scale for scale in selections if selections.count(scale) > 1})
        if twice:
            return [f"scale {twice[0]} selects twice; give it to clusters or to rewards"]
        if any(width < 1 for width in self.widths) or self.widths[-1] != 1:
            return [f"`widths` {list(self.widths)} must be 1 or more, and 1 at the end"]
        problems = []
        for scale in range(1, last + 1):
            before, after = self.widths[scale - 1], self.widths[scale]
            if after > before:
                problems.append(f"width {after} of scale {scale} follows {before}; it may not grow")
            elif after < before and scale not in selections:
                problems.append(
                    f"width falls from {before} to {after} after scale {scale}, where nothing is "
                    "selected; name it in `cluster_scales` or `resample_scales`"
                )
            elif after == before and scale in self.cluster_scales:
                problems.append(
                    f"clusters are formed after scale {scale}, but its width stays {after}; lower "
                    "it or take the scale out of `cluster_scales`"
                )
        return problems

    @property
    def selections(self) -> tuple[int, ...]:
        """All scales after which candidates are chosen, ascending."""
        return tuple(sorted(self.cluster_scales + self.resample_scales))

    @property
    def drawn_widths(self) -> tuple[int, ...]:
        """With how many candidates each scale is drawn, in units of N."""
        return (self.widths[0], *self.widths[:-1])

    def work(self, token_counts: Sequence[int]) -> tuple[int, int]:
        """Tokens drawn, and pairs of tokens that attend, both in units of N."""
        tokens = pairs = seen = 0
        for width, count in zip(self.drawn_widths, token_counts, strict=True):
            seen += count
            tokens += width * count
            pairs += width * count * seen
        return tokens, pairs

    @property
    def decodes(self) -> int:
        """Pictures decoded, in units of N: at each selection, and the finished ones."""
        return sum(self.drawn_widths[scale] for scale in self.selections) + 1


def check_length(widths: Sequence[int], num_scales: int) -> None:
    """Refuse widths that are not one for each scale.

    Raises:
        ConfigError: there are more or fewer.
    """
    if len(widths) != num_scales:
        raise ConfigError(
            f"`widths` has {len(widths)} entries and the model {num_scales} scales; give one for "
            "each."
        )


def default_selections(num_scales: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Scales to cluster and to resample at, as the published ones lie among 13.

    A model deserves its own: see `gensift tune --sampler tts-var`.

    Raises:
        ConfigError: there are fewer than six scales.
    """
    if num_scales < FEWEST_SCALES:
        raise ConfigError(
            f"A model of {num_scales} scales has no default selections; six scales are needed, or "
            "give `cluster_scales`, `resample_scales` and `widths`."
        )
    scales: list[int] = []
    for fraction in _FRACTIONS:
        nearest = math.floor(fraction * (num_scales - 1) + 0.5)
        scales.append(max(nearest, (scales[-1] if scales else 0) + 1))
    return tuple(scales[:2]), tuple(scales[2:])


def default_widths(num_scales: int, selections: Sequence[int]) -> tuple[int, ...]:
    """The published widths, falling at `selections`.

    Raises:
        ConfigError: there are not four selections.
    """
    if len(selections) != len(AFTER):
        raise ConfigError(
            f"{len(selections)} selections were given, and the published widths {START}, "
            f"{', '.join(map(str, AFTER))} are for {len(AFTER)}; give `widths` too."
        )
    return falling_widths(num_scales, selections)


def falling_widths(num_scales: int, selections: Sequence[int]) -> tuple[int, ...]:
    """The published widths, falling at `selections`; fewer than four take the end of them."""
    levels = (START, *AFTER)[len(AFTER) - len(selections) :]
    return tuple(levels[sum(at <= scale for at in selections)] for scale in range(num_scales))
