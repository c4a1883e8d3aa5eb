"""Best-of-N on next-scale models: draw N pictures and keep the one that the reward likes best."""

from __future__ import annotations

from typing import ClassVar

from samplers.autoregressive.search import NextScaleSearch


class VARBestOfN(NextScaleSearch):
    """The baseline of every search: N independent samples, the best one wins.

    Without a reward it draws N samples and returns them all, in order.
    """

    name: ClassVar[str] = "var-best-of-n"
