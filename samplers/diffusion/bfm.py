"""Blockwise flow matching as a sampler: how a blockwise model spends its network evaluations.

Source: "Blockwise Flow Matching", arXiv 2510.21167. Holding features, refreshing them on the way,
and the second-order solver are ours.
"""

from __future__ import annotations

from typing import ClassVar

from gensift.errors import UnsupportedPipelineError
from gensift.pipelines.bfm.pipeline import BFMPipeline
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.config import BFMConfig
from samplers.diffusion.search import DiffusionSearch


class BFM(DiffusionSearch[BFMConfig]):
    """Draws candidates by a blockwise flow model and keeps the best one.

    NFE counts rows of the transformer whatever the feature mode: a row is cheaper where the trunk
    does not run.
    """

    name: ClassVar[str] = "bfm"
    pipelines: ClassVar[str] = "BFMPipeline"
    config_class: ClassVar[type[BFMConfig]] = BFMConfig
    default_model: ClassVar[str] = "shapes-bfm"
    shares_candidates: ClassVar[bool] = True
    nonuniform_arguments: ClassVar[frozenset[str]] = frozenset({"guidance_interval", "solver"})

    def check(self, call: PipelineCall, num_candidates: int) -> None:
        """See `DiffusionSearch`; other pipelines than blockwise ones are refused."""
        if not isinstance(call.pipe, BFMPipeline):
            raise UnsupportedPipelineError(
                f"{call.bound.class_name} is no blockwise flow model; take a BFMPipeline such "
                "as shapes-bfm, or --sampler best-of-n."
            )
        super().check(call, num_candidates)

    def rows_per_step(self, call: PipelineCall) -> float:
        """Denoiser rows of a candidate per step, on average over the loop."""
        return float(call.pipe.count_rows(call.arguments)) / call.num_steps
