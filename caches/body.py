"""Passing over all blocks of a denoiser at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor

from caches.blocks import BlockFacts, block_facts_of, body_blocks
from gensift.denoising.arguments import bind_arguments
from gensift.denoising.modules import AttachedHook, unwrapped


class Body:
    """The blocks of a denoiser, which can be watched, or replaced by what they added before."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        """Hook the blocks of `denoiser`.

        Raises:
            UnsupportedPipelineError: they are not known, or no difference can stand for them.
        """
        self.is_watched = False
        self.kept: Tensor | None = None
        self.entered: Tensor | None = None
        self.difference: Tensor | None = None
        blocks = body_blocks(denoiser)
        hooks = [_BlockHook(self, block_facts_of(block)) for block in blocks]
        hooks[0].is_first = hooks[-1].is_last = True
        self._attached: list[AttachedHook] = []
        try:
            for block, hook in zip(blocks, hooks, strict=True):
                self._attached.append(AttachedHook(unwrapped(block), hook, "cache_body"))
        except BaseException:
            self.detach()
            raise

    def run(self, denoise: Callable[[], Any]) -> tuple[Any, Tensor]:
        """The output of `denoise`, and what the blocks added to the hidden states, float32."""
        self.is_watched = True
        try:
            output = denoise()
            assert self.difference is not None
            return output, self.difference
        finally:
            self._forget()

    def skip(self, denoise: Callable[[], Any], difference: Tensor) -> Any:
        """The output of `denoise` with `difference` in place of what the blocks would add."""
        self.kept = difference
        try:
            return denoise()
        finally:
            self._forget()

    def detach(self) -> None:
        """Leave the blocks as they were."""
        for attached in reversed(self._attached):
            attached.remove()
        self._attached = []

    def _forget(self) -> None:
        self.is_watched = False
        self.kept = self.entered = self.difference = None


class _BlockHook(ModelHook):  # type: ignore[misc]
    def __init__(self, body: Body, facts: BlockFacts) -> None:
        super().__init__()
        self.is_first = self.is_last = False
        self._body, self._facts = body, facts

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Stand in for `module.forward`."""
        body, facts = self._body, self._facts
        if not body.is_watched and body.kept is None:
            return self.fn_ref.original_forward(*args, **kwargs)
        arguments = bind_arguments(module, args, kwargs)
        hidden = arguments[facts.hidden_argument]
        if self.is_first:
            body.entered = hidden
        if body.kept is None:
            output = self.fn_ref.original_forward(*args, **kwargs)
            if self.is_last:
                left = output
                if len(facts.returns) > 1:
                    left = output[facts.returns.index("hidden")]
                assert body.entered is not None
                body.difference = left.float() - body.entered.float()
            return output
        if self.is_last:
            # What ControlNets add between the blocks is lost here: it is in the difference.
            assert body.entered is not None
            hidden = (body.entered.float() + body.kept).to(hidden.dtype)
        streams = {"hidden": hidden, "encoder": arguments.get(facts.encoder_argument or "")}
        passed = tuple(streams[name] for name in facts.returns)
        return passed if len(passed) > 1 else passed[0]
