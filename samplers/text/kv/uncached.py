"""No cache: every step computes every position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gensift.errors import UnsupportedPipelineError
from gensift.pipelines.llada.transformer import positions_in, whole_logits
from samplers.text.attention import AttentionRule, Full
from samplers.text.kv.protocol import LayeredModel, Request, Work, take


class Uncached:
    """Runs the model as it is.

    Args:
        model: any with `(input_ids, attention_mask, position_ids) -> logits`; attention rules other
            than the full one need a `LayeredModel`.
        attention: who may look at whom.

    Raises:
        UnsupportedPipelineError: the model cannot take the attention rule.
    """

    def __init__(self, model: nn.Module, attention: AttentionRule) -> None:
        if not isinstance(attention, Full) and not isinstance(model, LayeredModel):
            raise UnsupportedPipelineError(
                f"{type(model).__name__} takes no attention rule but full; use a LLaDATransformer, "
                "or attention=full."
            )
        self._model = model
        self._attention = attention
        self.work = Work()

    def logits(self, request: Request) -> Tensor:
        """Logits at the columns asked for."""
        state = request.state
        self.work.rows += len(state)
        self.work.calls += 1
        self.work.computed += state.tokens.numel()
        if isinstance(self._model, LayeredModel):
            return self._layered(self._model, request)
        logits = whole_logits(self._model, state.tokens, state.is_real)
        return take(logits, request.columns.index)

    def _layered(self, model: LayeredModel, request: Request) -> Tensor:
        state = request.state
        everywhere = torch.arange(state.tokens.shape[1], device=state.tokens.device)
        mask = self._attention.mask(state, everywhere.expand_as(state.tokens))
        positions = positions_in(state.is_real)
        hidden, rotary = model.embed(state.tokens), model.rotary(positions)
        for layer in model.layers:
            hidden = layer(hidden, rotary, mask)
        return model.head(take(hidden, request.columns.index))

    def select(self, rows: Tensor) -> None:
        """There is nothing to keep."""
