"""Passing over all blocks of a denoiser at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from caches.blocks import BlockFacts, block_facts_of, body_blocks
from caches.graphs import between_graphs
from caches.row_store import with_tokens
from gensift.denoising.arguments import parameters_of
from gensift.denoising.modules import AttachedHook, ForwardHook, unwrapped


class Body:
    """The blocks of a denoiser, which can be watched, or replaced by what they added before.

    Attributes:
        is_running: whether the denoiser is called through `run` now.
        kept: what the blocks of this call are replaced by; None where they run.
        entered: hidden states before the first block.
        left: hidden states after the last block, where the blocks ran.
        is_padded: see `BlockFacts.is_padded`.
    """

    is_running = False
    kept: Tensor | None = None
    entered: Tensor | None = None
    left: Tensor | None = None

    def __init__(self, denoiser: torch.nn.Module) -> None:
        """Hook the blocks of `denoiser`.

        Raises:
            UnsupportedPipelineError: they are not known, or no difference can stand for them.
        """
        self._denoiser = denoiser
        blocks = body_blocks(denoiser)
        hooks = [_BlockHook(self, block_facts_of(block)) for block in blocks]
        self.is_padded = any(hook.facts.is_padded for hook in hooks)
        hooks[0].is_first = hooks[-1].is_last = True
        self._attached: list[AttachedHook] = []
        try:
            for block, hook in zip(blocks, hooks, strict=True):
                self._attached.append(AttachedHook(unwrapped(block), hook, "cache_body"))
        except BaseException:
            self.detach()
            raise

    @between_graphs
    def run(
        self, denoise: Callable[[], object], difference: Tensor | None = None
    ) -> tuple[object, Tensor | None]:
        """Call `denoise`, with `difference` in place of what the blocks would add, if it fits.

        Returns:
            The output; and what the blocks added to the hidden states, float32 `(rows, ...)`, or
            None where `difference` stood for them.
        """
        self.is_running, self.kept = True, difference
        try:
            output = denoise()
            if self.kept is not None:
                return output, None
            assert self.entered is not None and self.left is not None
            return output, self.left.float() - self.entered.float()
        finally:
            self._forget()

    @property
    def is_in_place(self) -> bool:
        """Whether the blocks that were hooked are still those of the denoiser."""
        blocks = [unwrapped(block) for block in body_blocks(self._denoiser)]
        return blocks == [attached.module for attached in self._attached]

    def detach(self) -> None:
        """Leave the blocks as they were."""
        for attached in reversed(self._attached):
            attached.remove()
        self._attached = []

    def enter(self, hidden: Tensor) -> None:
        """Begin with `hidden` `(rows, ...)`; the blocks run if what is kept has another size."""
        self.entered = hidden
        if self.kept is not None and self.is_padded:
            self.kept = with_tokens(self.kept, hidden.shape[1])
        if self.kept is not None and self.kept.shape != hidden.shape:
            self.kept = None

    def _forget(self) -> None:
        self.is_running = False
        self.kept = self.entered = self.left = None


class _BlockHook(ForwardHook):
    def __init__(self, body: Body, facts: BlockFacts) -> None:
        super().__init__()
        self.is_first = self.is_last = False
        self.facts, self._body = facts, body

    def initialize_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        """Read the signature now: inside a compiled block that cannot be done."""
        self._parameters = parameters_of(module)
        return module

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> object:
        """Stand in for `module.forward`."""
        body, facts = self._body, self.facts
        if not body.is_running:
            return self.plain_forward(*args, **kwargs)
        arguments = dict(zip(self._parameters, args, strict=False)) | kwargs
        hidden = arguments[facts.hidden_argument]
        if self.is_first:
            body.enter(hidden)
        if body.kept is None:
            output = self.plain_forward(*args, **kwargs)
            if self.is_last:
                is_single = len(facts.returns) == 1
                body.left = output if is_single else output[facts.returns.index("hidden")]
            return output
        if self.is_last:
            # What ControlNets add between the blocks is lost here: it is in the difference.
            assert body.entered is not None
            hidden = (body.entered.float() + body.kept).to(hidden.dtype)
        streams = {"hidden": hidden, "encoder": arguments.get(facts.encoder_argument or "")}
        # Of a list: torch.compile does not take generators.
        passed = tuple([streams[name] for name in facts.returns])
        return passed if len(passed) > 1 else passed[0]
