"""Options of calibrating a BAC; imports nothing heavy, as the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass

from caches.options import CalibrationOptions
from gensift.config import option


@dataclass(frozen=True, kw_only=True)
class BACOptions(CalibrationOptions):
    """What a BAC is calibrated for, and how."""

    num_bubbling: int = option(
        5, minimum=0, help="sub-blocks computed whenever a feed-forward behind them is"
    )
