"""What a model must offer for its scales to be searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from gensift.pipelines.next_scale.pipeline import NextScaleState, SamplingOptions
from gensift.pipelines.next_scale.scales import ScaleSchedule


@runtime_checkable
class NextScaleModel(Protocol):
    """A picture model that draws all tokens of a scale at once, from coarse to fine.

    `gensift.pipelines.next_scale.pipeline.NextScalePipeline` is one; any residual next-scale model
    with such a state can be another.
    """

    def settings(self, **arguments: Any) -> tuple[ScaleSchedule, SamplingOptions]:
        """What a call with these arguments draws, and how; the keywords are in its signature."""
        ...

    def start(self, prompts: Any, *, num_images_per_prompt: Any, generator: Any) -> NextScaleState:
        """Rows of which nothing is drawn yet, those of a prompt together."""
        ...

    def step(self, state: NextScaleState, max_rows: int | None = None) -> None:
        """Draw the next scale of all rows."""
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

    def decode(self, latents: Tensor, *, scale: tuple[int, int] | None = None) -> Tensor:
        """Pictures of a state's latents, at any point; smaller ones when a grid is given."""
        ...
