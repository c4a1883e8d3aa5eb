"""Hooks on the sub-blocks of a denoiser, through which their outputs are taken and given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from caches.blocks import PlacedUnit
from caches.row_store import with_tokens
from gensift.denoising.modules import AttachedHook, ForwardHook, ReplacedMethod

Outputs = tuple[Tensor, ...]


class UnitSlot:
    """One sub-block: what it is to return without running, and what it returned.

    Attributes:
        unit: the sub-block.
        given: outputs that stand for its own in the next call; None lets it run.
        taken: what it returned when it last ran. It is taken in any case: in a compiled block,
            each further choice would double the number of graphs.
        is_tuple: whether it returns a tuple, of tensors, rather than one tensor.
        run: computes it, by the function given; replaced to measure its time.
    """

    def __init__(self, unit: PlacedUnit) -> None:
        """Hook the modules of `unit`."""
        self.unit = unit
        self.given: Outputs | None = None
        self.taken: Outputs | None = None
        self.is_tuple = False
        self._num_unread = 0
        self.run: Callable[[Callable[[], object]], object] = lambda compute: compute()
        self._attached: list[AttachedHook | ReplacedMethod] = []
        if unit.method is None:
            for module in unit.also:
                self._attached.append(AttachedHook(module, _ContributorHook(self), "cache_unit"))
            self._attached.append(AttachedHook(unit.module, _OutputHook(self), "cache_unit"))
            return
        # A hook costs as much as a small norm: where a sub-block is a method anyway, both its
        # modules and itself are replaced by plain functions.
        for module in unit.also:
            self._attached.append(ReplacedMethod(module, "forward", self._passing_by))
        self._attached.append(ReplacedMethod(unit.module, unit.method, self._answering))

    def detach(self) -> None:
        """Leave the modules as they were."""
        for attached in reversed(self._attached):
            attached.remove()

    def answer(self, batch: Tensor, compute: Callable[[], object]) -> object:
        """What the sub-block returns for `(rows, ...)`: given outputs if they fit, else its own."""
        if self.given is not None and self.fits(batch):
            kept: tuple[Tensor | None, ...] = (*self.given, *[None] * self._num_unread)
            return kept if self.is_tuple else kept[0]
        output = self.run(compute)
        self.is_tuple = isinstance(output, tuple)
        outputs = output if isinstance(output, tuple) else (output,)
        self.taken = outputs[:1] if self.unit.reads_first else outputs
        self._num_unread = len(outputs) - len(self.taken)
        return output

    def _answering(self, plain: Callable[..., object]) -> Callable[..., object]:
        def answer(batch: Tensor, *args: object, **kwargs: object) -> object:
            return self.answer(batch, lambda: plain(batch, *args, **kwargs))

        return answer

    def _passing_by(self, plain: Callable[..., object]) -> Callable[..., object]:
        def pass_by(batch: Tensor) -> object:
            if self.given is not None and self.fits(batch):
                return batch
            return self.run(lambda: plain(batch))

        return pass_by

    def fits(self, batch: Tensor) -> bool:
        """Whether `given` was made of inputs as large as `batch`, `(rows, ...)`; else it goes."""
        if self.given is None:
            return False
        if self.unit.is_padded:
            self.given = tuple(with_tokens(kept, batch.shape[1]) for kept in self.given)
        kept = self.given[0]
        if kept.shape == batch.shape:
            return True
        is_same = len(kept) == len(batch) and (kept.ndim != 3 or kept.shape[1] == batch.shape[1])
        if not is_same:
            self.given = None
        return is_same


class _OutputHook(ForwardHook):
    """On the module whose output is that of the sub-block."""

    def __init__(self, slot: UnitSlot) -> None:
        super().__init__()
        self._slot = slot

    def new_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        """Stand in for `module.forward`."""
        batch = _first_tensor(args, kwargs)
        return self._slot.answer(batch, lambda: self.plain_forward(*args, **kwargs))


class _ContributorHook(ForwardHook):
    """On a module that works for the sub-block's output alone, and is not needed on reuse."""

    def __init__(self, slot: UnitSlot) -> None:
        super().__init__()
        self._slot = slot

    def new_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        """Stand in for `module.forward`."""
        if self._slot.given is not None:
            batch = _first_tensor(args, kwargs)
            if self._slot.fits(batch):
                # Without channels, what is done to it until the output costs nothing.
                return batch.new_empty(*batch.shape[:-1], 0)
        return self._slot.run(lambda: self.plain_forward(*args, **kwargs))


def _first_tensor(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Tensor:
    """The batch that a module is called with."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
