"""The scales of a next-scale model: token grids `(height, width)` from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from gensift.errors import ConfigError

Scale = tuple[int, int]


def checked_scales(scales: Sequence[Sequence[int]]) -> tuple[Scale, ...]:
    """`scales` as pairs.

    Raises:
        ConfigError: there is none, one is empty, or one is smaller than the one before.
    """
    pairs = tuple((int(height), int(width)) for height, width in scales)
    if not pairs:
        raise ConfigError("A next-scale model needs at least one scale; none was given.")
    for before, (height, width) in zip(((1, 1), *pairs), pairs, strict=False):
        if height < before[0] or width < before[1]:
            raise ConfigError(
                f"Scale {height}x{width} follows {before[0]}x{before[1]}; scales must be at least "
                "1x1 and never shrink."
            )
    return pairs


@dataclass(frozen=True)
class ScaleSchedule:
    """The grids that a picture is drawn on, one after the other.

    Attributes:
        scales: token grids; the first one is a single token.
        reference: grid that rotary positions are measured on; models trained on several sizes
            share the finest of them.
    """

    scales: tuple[Scale, ...]
    reference: Scale

    @classmethod
    def of(
        cls, scales: Sequence[Sequence[int]], reference: Sequence[int] | None = None
    ) -> ScaleSchedule:
        """Check `scales` and put them together.

        Raises:
            ConfigError: they do not grow from 1x1.
        """
        pairs = checked_scales(scales)
        if pairs[0] != (1, 1):
            raise ConfigError(f"The first scale is {pairs[0][0]}x{pairs[0][1]}; it must be 1x1.")
        last = pairs[-1] if reference is None else (int(reference[0]), int(reference[1]))
        return cls(pairs, last)

    def __len__(self) -> int:
        return len(self.scales)

    @property
    def token_counts(self) -> list[int]:
        """Tokens of each scale."""
        return [height * width for height, width in self.scales]

    @property
    def ends(self) -> list[int]:
        """Tokens up to and with each scale; the last entry is the length of the sequence."""
        return list(accumulate(self.token_counts))


def square_schedule(sides: Sequence[int]) -> ScaleSchedule:
    """Square grids with these sides."""
    return ScaleSchedule.of([(side, side) for side in sides])
