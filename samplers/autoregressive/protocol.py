"""What a model must offer for its scales to be searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gensift.pipelines.next_scale.pipeline import NextScaleState, SamplingOptions
from gensift.pipelines.next_scale.scales import Scale, ScaleSchedule


@runtime_checkable
class NextScaleModel(Protocol):
    """A picture model that draws all tokens of a scale at once, from coarse to fine.

    `gensift.pipelines.next_scale.pipeline.NextScalePipeline` is one; any residual next-scale model
    with such a state can be another.
    """

    def settings(self, **arguments: Any) -> tuple[ScaleSchedule, SamplingOptions]:
        """What a call with these arguments draws, and how; the keywords are in its signature."""
        ...

    def start(
        self,
        prompts: list[str],
        *,
        num_images_per_prompt: list[int],
        generator: list[torch.Generator],
        capacity: int | None = None,
        **arguments: Any,
    ) -> NextScaleState:
        """Rows of which nothing is drawn yet, those of a prompt together.

        Args:
            prompts: texts, or names or indices of classes.
            num_images_per_prompt: rows of each prompt.
            generator: one for each row.
            capacity: positions that the cache needs room for; by default all.
            arguments: other arguments of the model's own call.
        """
        ...

    def step(self, state: NextScaleState, max_rows: int | None = None) -> None:
        """Draw the next scale of all rows, at most `max_rows` at a time."""
        ...

    def gather(
        self,
        state: NextScaleState,
        rows: Sequence[int],
        fresh_seeds: Sequence[int | None],
        capacity: int | None = None,
    ) -> None:
        """Let row `i` go on as row `rows[i]`, with a new random stream where a seed is given."""
        ...

    def maybe_free_model_hooks(self) -> None:
        """Take parts off the device that are offloaded while they are not in use."""
        ...

    def decode(self, latents: Tensor, *, scale: Scale | None = None) -> Tensor:
        """Pictures `(rows, 3, height, width)` in [0, 1] of a state's latents, at any point.

        Args:
            latents: `(rows, channels, H, W)`, of all rows of a state or of some.
            scale: token grid to decode at, for smaller pictures; None for the full one.
        """
        ...
