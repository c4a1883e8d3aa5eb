"""How a blockwise flow is sampled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from gensift.errors import ConfigError

FeatureMode = Literal["full", "frn", "hold"]
Solver = Literal["euler", "heun", "sde"]


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Checked arguments of a call.

    Attributes:
        feature_mode: "full" runs the trunk at each step; "frn" at the first one of a segment, and
            approximates features after that; "hold" keeps them as they are.
        refresh_every: run the trunk after so many steps of a segment, too; None does not.
        refresh_threshold: run it for a row that has moved by this share of its norm since its
            features were computed; None does not.
        guidance_scale: how far the velocity is moved away from that of no class; 1 is off.
        guidance_interval: lowest and highest sigma at which guidance is on, both included.
        solver: "euler"; "heun", with two evaluations a step; or "sde", which adds noise.
    """

    feature_mode: FeatureMode = "full"
    refresh_every: int | None = None
    refresh_threshold: float | None = None
    guidance_scale: float = 1.0
    guidance_interval: Sequence[float] | None = None
    solver: Solver = "euler"

    @classmethod
    def of_call(cls, arguments: Mapping[str, Any]) -> Self:
        """Those among the arguments of a call.

        Raises:
            ConfigError: one is out of range.
        """
        return cls(**{f.name: arguments[f.name] for f in fields(cls) if f.name in arguments})

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError.from_problems("Arguments of BFMPipeline", problems)

    def _problems(self) -> Iterator[str]:
        for name, kind in (("feature_mode", FeatureMode), ("solver", Solver)):
            given, known = getattr(self, name), get_args(kind)
            if given not in known:
                yield f"`{name}` is {given!r}; allowed: {', '.join(known)}"
        every, threshold = self.refresh_every, self.refresh_threshold
        if every is not None and not (_is_number(every) and every >= 1 and every == int(every)):
            yield f"`refresh_every` is {every!r}; give a whole number of steps from 1, or None"
        if threshold is not None and not (_is_number(threshold) and threshold >= 0):
            yield f"`refresh_threshold` is {threshold!r}; give a share from 0, or None"
        if self.feature_mode == "full" and (every is not None or threshold is not None):
            yield "`refresh_every` and `refresh_threshold` need `feature_mode` 'frn' or 'hold'"
        if not _is_number(self.guidance_scale) or self.guidance_scale < 1:
            yield f"`guidance_scale` is {self.guidance_scale!r}; give a number from 1 (off)"
        if self.guidance_interval is not None and not _is_interval(self.guidance_interval):
            yield (
                f"`guidance_interval` is {self.guidance_interval!r}; give two sigmas, the lower "
                "one first, within [0, 1]"
            )

    def is_guided_at(self, sigma: float) -> bool:
        """Whether a step that starts at `sigma` is guided."""
        low, high = self.guidance_interval or (0.0, 1.0)
        return self.guidance_scale > 1 and low <= sigma <= high


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_interval(value: Any) -> bool:
    if not isinstance(value, Sequence) or len(value) != 2 or not all(map(_is_number, value)):
        return False
    return bool(0 <= value[0] <= value[1] <= 1)
