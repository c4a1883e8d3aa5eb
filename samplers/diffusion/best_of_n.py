"""Best-of-N: denoise every candidate to the end and keep the one that the reward likes best."""

from __future__ import annotations

from typing import ClassVar

from samplers.diffusion.config import SearchConfig
from samplers.diffusion.search import DiffusionSearch


class BestOfN(DiffusionSearch[SearchConfig]):
    """The baseline of every search: N independent samples, the best one wins.

    Without a reward it draws N samples and returns them all, in order.
    """

    name: ClassVar[str] = "best-of-n"
    config_class: ClassVar[type[SearchConfig]] = SearchConfig
    shares_candidates: ClassVar[bool] = True
