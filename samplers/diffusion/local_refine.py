"""TTSnap first, then zero-order refinement of the noises that survived it.

Source: the abstract of TTSnap (arXiv 2511.22242) says that its gains add to those of local search
at test time, without giving a procedure; this one is ours, with the neighbours of Ma et al.
(arXiv 2501.09732).
"""

from __future__ import annotations

from typing import ClassVar

from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.config import LocalRefineConfig, SearchConfig, TTSnapConfig
from samplers.diffusion.refinement import AnySearch, Refinement
from samplers.diffusion.ttsnap import TTSnap


class LocalRefine(Refinement[LocalRefineConfig]):
    """Prunes many candidates down to a few by TTSnap, then refines the noises of those."""

    name: ClassVar[str] = "local-refine"
    config_class: ClassVar[type[LocalRefineConfig]] = LocalRefineConfig

    @property
    def num_pivots(self) -> int:
        """The survivors that are refined."""
        return self.config.survivors

    def first_search(self) -> AnySearch:
        """TTSnap with the same schedule."""
        return self._ttsnap(self.num_finished)

    def round_search(self) -> AnySearch:
        """The neighbours to the end, or pruned as in TTSnap."""
        num_outputs = min(self.config.num_outputs, self.round_size)
        if self.config.prune_rounds:
            return self._ttsnap(num_outputs)
        config = SearchConfig(num_outputs=num_outputs, max_rows=self.config.max_rows)
        return BestOfN(self.reward, config, keep_previews=self.keep_previews)

    def _ttsnap(self, num_outputs: int) -> AnySearch:
        config = TTSnapConfig(
            num_outputs=num_outputs,
            max_rows=self.config.max_rows,
            preview_decoder=self.config.preview_decoder,
            checkpoints=self.config.checkpoints,
            keep=self.config.keep,
        )
        return TTSnap(self.reward, config, keep_previews=self.keep_previews)
