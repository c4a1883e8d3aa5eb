"""Passing over a block that only adds up the outputs of its units, when all of them are reused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from caches.bac.units import UnitSlot
from gensift.denoising.modules import ReplacedMethod


class SummedBlock:
    """A block whose norms and calls are left out where every one of its units is given.

    The sum is that of the block itself, term by term, so that nothing changes but the time.
    """

    def __init__(self, slots: Iterable[UnitSlot], hidden_argument: str) -> None:
        """Watch the block that holds the units of `slots`, which are all it has, in order."""
        self._slots, self._hidden_argument = list(slots), hidden_argument
        self._replaced = ReplacedMethod(self._slots[0].unit.module, "forward", self._adding)

    def detach(self) -> None:
        """Leave the block as it was."""
        self._replaced.remove()

    def _adding(self, plain: Callable[..., object]) -> Callable[..., object]:
        slots, name = self._slots, self._hidden_argument

        def forward(*args: Any, **kwargs: Any) -> object:
            hidden = args[0] if args else kwargs[name]
            terms = []
            for slot in slots:
                if not slot.fits(hidden) or slot.given is None:
                    return plain(*args, **kwargs)
                terms.append(slot.given[0])
            for term in terms:
                hidden = hidden + term
            return hidden

        return forward


def summed_blocks(slots: Iterable[UnitSlot]) -> list[SummedBlock]:
    """Watch every block that sums up its units, where all of these are among `slots`."""
    by_block: dict[int, list[UnitSlot]] = {}
    for slot in slots:
        if slot.unit.summed_by is not None:
            by_block.setdefault(id(slot.unit.module), []).append(slot)
    return [
        SummedBlock(own, own[0].unit.summed_by.hidden_argument)
        for own in by_block.values()
        if own[0].unit.summed_by is not None and len(own) == len(own[0].unit.summed_by.units)
    ]
