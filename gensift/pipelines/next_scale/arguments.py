"""Checks of the arguments that calls of next-scale pipelines have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gensift.errors import ConfigError

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_output_type(output_type: str) -> None:
    """Refuse what a call cannot return.

    Raises:
        ConfigError: naming what it can.
    """
    if output_type not in OUTPUT_TYPES:
        raise ConfigError(f"`output_type` is {output_type!r}; allowed: {', '.join(OUTPUT_TYPES)}.")


def rows_of_prompts(num_prompts: int, per_prompt: int | Sequence[int]) -> list[int]:
    """The prompt of each row: so many rows of the first, then those of the next.

    Raises:
        ConfigError: a prompt has no row, or there are more or fewer counts than prompts.
    """
    counts = [per_prompt] * num_prompts if isinstance(per_prompt, int) else list(per_prompt)
    if len(counts) != num_prompts or any(count < 1 for count in counts):
        raise ConfigError(
            f"`num_images_per_prompt` is {per_prompt}; give 1 or more, for all or for each of "
            f"{num_prompts} prompts."
        )
    return [prompt for prompt, count in enumerate(counts) for _ in range(count)]


def per_scale(
    name: str, given: object, num_scales: int, minimum: float = -math.inf
) -> tuple[float, ...]:
    """A number for each scale, from one number for all or a sequence of one for each.

    Raises:
        ConfigError: there are more or fewer numbers than scales, or one is below `minimum`.
    """
    numbers: tuple[object, ...] = (given,) * num_scales
    if isinstance(given, Sequence) and not isinstance(given, str):
        numbers = tuple(given)
    if len(numbers) != num_scales:
        raise ConfigError(
            f"`{name}` has {len(numbers)} numbers; give one, or one for each of {num_scales} "
            "scales."
        )
    return tuple(number_within(name, number, minimum) for number in numbers)


def number_within(
    name: str, given: object, minimum: float = -math.inf, maximum: float = math.inf
) -> float:
    """`given` as a float.

    Raises:
        ConfigError: it is no finite number, or outside of the bounds.
    """
    if (
        isinstance(given, int | float)
        and not isinstance(given, bool)
        and math.isfinite(given)
        and minimum <= given <= maximum
    ):
        return float(given)
    least = "" if minimum == -math.inf else f" from {minimum:g}"
    most = "" if maximum == math.inf else f" to {maximum:g}"
    raise ConfigError(f"`{name}` is {given!r}; give a number{least}{most}.")
