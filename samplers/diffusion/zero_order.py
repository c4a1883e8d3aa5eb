"""Zero-order search: best-of-N, then rounds of neighbours around the best noise.

Source: Ma et al., "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
arXiv 2501.09732. The score of the pivot is remembered rather than made again each round, and
neighbours come from seeds of their own, so that a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gensift.config import option
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.refinement import Refinement, RefinementConfig
from samplers.diffusion.search import DiffusionSearch, SearchConfig


@dataclass(frozen=True, kw_only=True)
class ZeroOrderConfig(RefinementConfig):
    """Options of zero-order search."""

    restart: bool = option(
        False, help="let a round of fresh noises follow a round in which no neighbour was better"
    )


class ZeroOrder(Refinement):
    """Climbs the reward from noise to better noise, among neighbours on the noise's sphere."""

    name: ClassVar[str] = "zero-order"
    config_class: ClassVar[type[SearchConfig]] = ZeroOrderConfig
    config: ZeroOrderConfig

    @property
    def restarts(self) -> bool:
        """As configured."""
        return self.config.restart

    def first_search(self) -> DiffusionSearch:
        """Best-of-N."""
        return self._best_of(self.num_finished)

    def round_search(self) -> DiffusionSearch:
        """All neighbours to the end."""
        return self._best_of(min(self.config.num_outputs, self.round_size))

    def _best_of(self, num_outputs: int) -> DiffusionSearch:
        config = SearchConfig(num_outputs=num_outputs, max_rows=self.config.max_rows)
        return BestOfN(self.reward, config, keep_previews=self.keep_previews)
