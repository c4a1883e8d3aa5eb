"""TTSnap first, then zero-order refinement of the noises that survived it.

Source: the abstract of TTSnap (arXiv 2511.22242) says that its gains add to those of local search
at test time, without giving a procedure; this one is ours, with the neighbours of Ma et al.
(arXiv 2501.09732).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from gensift.config import option
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.refinement import Refinement, RefinementConfig
from samplers.diffusion.search import DiffusionSearch, SearchConfig
from samplers.diffusion.ttsnap import TTSnap, TTSnapConfig


@dataclass(frozen=True, kw_only=True)
class LocalRefineConfig(RefinementConfig, TTSnapConfig):
    """Options of TTSnap and of the refinement that follows it."""

    rounds: int = option(2, minimum=0, help="rounds of neighbours after TTSnap")
    survivors: int = option(2, minimum=1, help="finished candidates whose noises are refined")
    prune_rounds: bool = option(
        False, help="prune the neighbours of each round by the same checkpoints"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.num_candidates is not None and self.survivors > self.num_candidates:
            yield f"`survivors` {self.survivors} exceeds `num_candidates` {self.num_candidates}"


class LocalRefine(Refinement):
    """Prunes many candidates down to a few by TTSnap, then refines the noises of those."""

    name: ClassVar[str] = "local-refine"
    config_class: ClassVar[type[SearchConfig]] = LocalRefineConfig
    config: LocalRefineConfig

    @property
    def num_pivots(self) -> int:
        """The survivors that are refined."""
        return self.config.survivors

    def first_search(self) -> DiffusionSearch:
        """TTSnap with the same schedule."""
        return self._ttsnap(self.num_finished)

    def round_search(self) -> DiffusionSearch:
        """The neighbours to the end, or pruned as in TTSnap."""
        num_outputs = min(self.config.num_outputs, self.round_size)
        if self.config.prune_rounds:
            return self._ttsnap(num_outputs)
        config = SearchConfig(num_outputs=num_outputs, max_rows=self.config.max_rows)
        return BestOfN(self.reward, config, keep_previews=self.keep_previews)

    def _ttsnap(self, num_outputs: int) -> DiffusionSearch:
        config = TTSnapConfig(
            num_outputs=num_outputs,
            max_rows=self.config.max_rows,
            preview_decoder=self.config.preview_decoder,
            checkpoints=self.config.checkpoints,
            keep=self.config.keep,
        )
        return TTSnap(self.reward, config, keep_previews=self.keep_previews)
