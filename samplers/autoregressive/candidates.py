"""The candidates of all prompts, and the rows of the model's state that they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gensift.pipelines.next_scale.pipeline import NextScaleState
from gensift.pipelines.next_scale.scales import ScaleSchedule
from gensift.protocols import CallArguments
from gensift.randomness import make_generators
from samplers.autoregressive.population import Population
from samplers.autoregressive.protocol import NextScaleModel
from samplers.autoregressive.schedule import SearchSchedule


class Candidates:
    """What is drawn: the populations of all prompts, row by row in one state of the model.

    Attributes:
        model: draws scale by scale.
        state: of the model; its rows are the candidates of the first prompt, then the next one's.
        schedule: widths and selections.
        populations: one per prompt.
    """

    def __init__(
        self,
        model: NextScaleModel,
        populations: Sequence[Population],
        schedule: SearchSchedule,
        scales: ScaleSchedule,
        arguments: CallArguments,
    ) -> None:
        """Begin all candidates of all prompts; nothing is drawn yet.

        Args:
            model: draws them.
            populations: one per prompt.
            schedule: widths and selections.
            scales: token grids of the model.
            arguments: of the model's own call.
        """
        self.model = model
        self.populations = populations
        self.schedule = schedule
        self.state: NextScaleState = model.start(
            [population.prompt for population in populations],
            num_images_per_prompt=[len(population.seeds) for population in populations],
            generator=make_generators([seed for p in populations for seed in p.seeds]),
            capacity=self._capacity(scales, 0),
            **arguments,
        )

    @property
    def scale(self) -> int:
        """Index of the scale that was drawn last."""
        return self.state.scale - 1

    def rows_of(self, index: int) -> slice:
        """The rows of one prompt's candidates."""
        start = sum(len(population.places) for population in self.populations[:index])
        return slice(start, start + len(self.populations[index].places))

    def draw_scale(self, max_rows: int | None) -> None:
        """Draw the next scale of all candidates, at most `max_rows` at a time."""
        self.model.step(self.state, max_rows)
        finish_gpu_work(self.state.latents)

    def keep(self, chosen: Sequence[Sequence[int]]) -> list[dict[int, int]]:
        """Let the chosen candidates of every prompt (positions, repeats allowed) go on alone.

        Returns:
            Per prompt and for each place that is filled the place whose state goes on there.
        """
        moves, rows, fresh = [], list[int](), list[int | None]()
        starts = [self.rows_of(index).start for index in range(len(self.populations))]
        for start, population, positions in zip(starts, self.populations, chosen, strict=True):
            before = population.places
            parents, seeds = population.choose(positions, self.scale)
            moves.append(dict(zip(population.places, (before[at] for at in parents), strict=True)))
            rows += [start + parent for parent in parents]
            fresh += seeds
        capacity = self._capacity(self.state.schedule, self.state.scale)
        self.model.gather(self.state, rows, fresh, capacity)
        finish_gpu_work(self.state.latents)
        return moves

    def _capacity(self, scales: ScaleSchedule, scale: int) -> int:
        """Positions that the cache fills from `scale` until candidates are chosen the next time."""
        later = [at for at in self.schedule.selections if at >= scale]
        return scales.ends[later[0] if later else -1]


def finish_gpu_work(tensor: Tensor) -> None:
    """Wait until the work on the device of `tensor` `(rows, ...)` is over.

    Parts of the time are told apart only when each one's work is.
    """
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
