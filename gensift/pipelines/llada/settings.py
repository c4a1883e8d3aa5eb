"""Options of a plain call of a masked diffusion language model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gensift.config import check, option


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """Options of a plain call; samplers take the same and add policies of their own."""

    gen_length: int = option(128, minimum=1, help="tokens of the response")
    block_length: int | None = option(
        None,
        minimum=1,
        help="the response is written in blocks of so many tokens, left to right, which need not "
        "divide gen_length; as one block when None",
    )
    num_inference_steps: int = option(
        128,
        minimum=1,
        help="steps over the whole response; a block gets its share, at most one step per token",
    )
    temperature: float = option(
        0.0, minimum=0, help="0 takes the most probable tokens, 1 samples what the model says"
    )
    guidance_scale: float = option(
        1.0,
        minimum=0,
        help="above 1 pushes away from what the model says with the prompt masked; LLaDA's "
        "cfg_scale is one less",
    )
    threshold: float | None = option(
        None,
        minimum=0,
        maximum=1,
        help="commit every token of at least this probability, at least one per step, instead of "
        "an even number per step",
    )
    eos_early_stop: bool = option(
        True, help="a text is finished when nothing before its first stop token is masked"
    )

    def __post_init__(self) -> None:
        check(self, self._problems())

    def _problems(self) -> Iterator[str]:
        for name in ("temperature", "guidance_scale"):
            if not math.isfinite(getattr(self, name)):
                yield f"`{name}` is {getattr(self, name)}; give a finite number"

    def blocks(self) -> list[tuple[int, int]]:
        """First and one past the last position of every block of the response."""
        length = self.block_length or self.gen_length
        starts = range(0, self.gen_length, length)
        return [(start, min(start + length, self.gen_length)) for start in starts]
