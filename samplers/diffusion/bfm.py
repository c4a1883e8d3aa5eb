"""Blockwise flow matching as a sampler: how a blockwise model spends its network evaluations.

Source: "Blockwise Flow Matching", arXiv 2510.21167. Holding features, refreshing them on the way,
and the second-order solver are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from gensift.config import option
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.bfm.pipeline import BFMPipeline
from gensift.pipelines.bfm.settings import FeatureMode, SamplingSettings, Solver
from samplers.diffusion.attach import PipelineCall
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.search import Plan, SearchConfig, count_steps


@dataclass(frozen=True, kw_only=True)
class BFMConfig(SearchConfig):
    """Options of the sampler; those left out are as the model asks, or as in a plain call."""

    feature_mode: FeatureMode | None = option(
        None,
        choices=("full", "frn", "hold"),
        help="full runs the trunk at each step; frn at the first one of a segment, approximating "
        "features after that; hold keeps them as they are",
    )
    steps_per_segment: tuple[int, ...] | None = option(
        None, help="one number of steps for all segments or one for each, instead of --steps"
    )
    refresh_every: int | None = option(
        None, minimum=1, help="with frn and hold: run the trunk after so many steps, too"
    )
    refresh_threshold: float | None = option(
        None,
        minimum=0,
        help="with frn and hold: run the trunk for a picture whose latents moved by this share "
        "of their norm",
    )
    guidance_interval: tuple[float, ...] | None = option(
        None, help="lowest and highest sigma at which guidance is on, as 0,0.7"
    )
    solver: Solver | None = option(
        None,
        choices=("euler", "heun", "sde"),
        help="euler; heun, with two evaluations a step; or sde, which adds noise",
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        given = self.call_arguments()
        if self.feature_mode is None:
            # The model's own mode may need them; the call checks them together.
            given = {name: v for name, v in given.items() if not name.startswith("refresh_")}
        try:
            SamplingSettings.of_call(given)
        except ConfigError as error:
            yield from error.problems

    def call_arguments(self) -> dict[str, Any]:
        """What the options ask of the pipeline's call."""
        steps = self.steps_per_segment
        given = {
            "feature_mode": self.feature_mode,
            "steps_per_segment": steps[0] if steps and len(steps) == 1 else steps,
            "refresh_every": self.refresh_every,
            "refresh_threshold": self.refresh_threshold,
            "guidance_interval": self.guidance_interval,
            "solver": self.solver,
        }
        return {name: value for name, value in given.items() if value is not None}


class BFM(BestOfN):
    """Draws candidates by a blockwise flow model and keeps the best one.

    NFE counts rows of the transformer whatever the feature mode: a row is cheaper where the trunk
    does not run.
    """

    name: ClassVar[str] = "bfm"
    pipelines: ClassVar[str] = "BFMPipeline"
    config_class: ClassVar[type[SearchConfig]] = BFMConfig
    default_model: ClassVar[str] = "shapes-bfm"
    nonuniform_arguments: ClassVar[frozenset[str]] = frozenset({"guidance_interval", "solver"})

    def plan_call(self, call: PipelineCall, num_candidates: int) -> Plan:
        """The plan of one pipeline call with `num_candidates` per prompt."""
        if not isinstance(call.pipe, BFMPipeline):
            raise UnsupportedPipelineError(
                f"{type(call.pipe).__name__} is no blockwise flow model; take a BFMPipeline such "
                "as shapes-bfm, or --sampler best-of-n."
            )
        return super().plan_call(call, num_candidates)

    def rows_per_step(self, call: PipelineCall) -> float:
        """Denoiser rows of a candidate per step, on average over the loop."""
        return float(call.pipe.count_rows(call.arguments)) / count_steps(call)
