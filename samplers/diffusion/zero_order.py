"""Zero-order search: best-of-N, then rounds of neighbours around the best noise.

Source: Ma et al., "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
arXiv 2501.09732. The score of the pivot is remembered rather than made again each round, and
neighbours come from seeds of their own, so that a run can be repeated.
"""

from __future__ import annotations

from typing import ClassVar

from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.config import SearchConfig, ZeroOrderConfig
from samplers.diffusion.refinement import AnySearch, Refinement


class ZeroOrder(Refinement[ZeroOrderConfig]):
    """Climbs the reward from noise to better noise, among neighbours on the noise's sphere."""

    name: ClassVar[str] = "zero-order"
    config_class: ClassVar[type[ZeroOrderConfig]] = ZeroOrderConfig

    @property
    def restarts(self) -> bool:
        """As configured."""
        return self.config.restart

    def first_search(self) -> AnySearch:
        """Best-of-N."""
        return self._best_of(self.num_finished)

    def round_search(self) -> AnySearch:
        """All neighbours to the end."""
        return self._best_of(min(self.config.num_outputs, self.round_size))

    def _best_of(self, num_outputs: int) -> AnySearch:
        config = SearchConfig(num_outputs=num_outputs, max_rows=self.config.max_rows)
        return BestOfN(self.reward, config, keep_previews=self.keep_previews)
