"""The LLaDA transformer: predicts every masked token of a sequence at once."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import cast

import torch
from diffusers import ConfigMixin
from diffusers import ModelMixin as ModelMixin  # pipelines look for it in this module
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.nn.functional import linear

from gensift.errors import ConfigError
from gensift.pipelines.llada.layers import LLaDALayer, rotary_table


@dataclass
class LLaDAOutput(BaseOutput):
    """What the transformer predicts.

    Attributes:
        logits: `(rows, positions, vocabulary)`.
    """

    logits: Tensor


class LLaDATransformer(ModelMixin, ConfigMixin):
    """A Llama without a causal mask. Options and parameters are named as in published checkpoints.

    The parts of a forward pass (`embed`, `rotary`, `layers`, `head`) can be called one by one,
    which is what caches of keys and values build on.

    Source: Nie et al., "Large Language Diffusion Models" (arXiv 2502.09992).

    Args:
        d_model: width.
        n_heads, n_kv_heads: attention heads, and those of keys and values; all have their own when
            None.
        n_layers: number of layers.
        mlp_hidden_size: width inside the feed-forward part.
        vocab_size: tokens that are in use.
        embedding_size: rows of the embedding, at least `vocab_size`; the same when None.
        max_sequence_length: longest sequence, prompt and response.
        rope_theta: base of the rotary wavelengths.
        rms_norm_eps: added to the mean square.
        weight_tying: whether the embedding is the head, too.
        mask_token_id, eos_token_id, pad_token_id: ids of special tokens.
    """

    config_name = "config.json"
    _no_split_modules = ("LLaDALayer",)
    uses_attention_dispatcher = True
    """Attention runs on the active backend, which `set_attention_backend` sets for all models."""

    @register_to_config
    def __init__(
        self,
        *,
        d_model: int = 4096,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        n_layers: int = 32,
        mlp_hidden_size: int = 12288,
        vocab_size: int = 126464,
        embedding_size: int | None = None,
        max_sequence_length: int = 4096,
        rope_theta: float = 500_000.0,
        rms_norm_eps: float = 1e-5,
        weight_tying: bool = False,
        mask_token_id: int | None = 126336,
        eos_token_id: int | None = 126081,
        pad_token_id: int | None = 126081,
    ) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ConfigError(f"d_model {d_model} is no multiple of n_heads {n_heads}.")
        rows = embedding_size or vocab_size
        parts: dict[str, nn.Module] = {
            "wte": nn.Embedding(rows, d_model),
            "blocks": nn.ModuleList(
                LLaDALayer(d_model, n_heads, n_kv_heads or n_heads, mlp_hidden_size, rms_norm_eps)
                for _ in range(n_layers)
            ),
            "ln_f": nn.RMSNorm(d_model, eps=rms_norm_eps),
        }
        if not weight_tying:
            parts["ff_out"] = nn.Linear(d_model, rows, bias=False)
        # The published names are model.transformer.<part>.
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(parts)})

    @property
    def parts(self) -> nn.ModuleDict:
        """Modules by published name: wte, blocks, ln_f and, unless tied, ff_out."""
        return cast(nn.ModuleDict, self.model["transformer"])

    @property
    def layers(self) -> list[LLaDALayer]:
        """The layers in order."""
        return [cast(LLaDALayer, layer) for layer in cast(nn.ModuleList, self.parts["blocks"])]

    def get_input_embeddings(self) -> nn.Module:
        """The table of token vectors."""
        return self.parts["wte"]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Vectors `(rows, positions, width)` of tokens."""
        embedded: Tensor = self.parts["wte"](input_ids)
        return embedded

    def rotary(self, position_ids: Tensor) -> Tensor:
        """What turns queries and keys at positions `(rows, positions)`; see `rotary_table`."""
        head_dim = self.config.d_model // self.config.n_heads
        return rotary_table(position_ids, head_dim, self.config.rope_theta)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits `(rows, positions, vocabulary)` of the last layer's output."""
        normed = self.parts["ln_f"](hidden)
        if self.config.weight_tying:
            return linear(normed, cast(nn.Embedding, self.parts["wte"]).weight)
        logits: Tensor = self.parts["ff_out"](normed)
        return logits

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_dict: bool = True,
    ) -> LLaDAOutput | tuple[Tensor]:
        """Predict every position.

        Args:
            input_ids: int64 `(rows, positions)`.
            attention_mask: true (or 1) at what may be looked at: `(rows, positions)`, false at
                padding, or bool `(rows, queries, keys)`; everything when None.
            position_ids: int64 `(rows, positions)`; by default counted from the first position that
                is no padding.
            return_dict: whether to return an `LLaDAOutput` or a tuple.
        """
        if position_ids is None:
            position_ids = positions_of(input_ids, attention_mask)
        mask = None if attention_mask is None else attention_mask.bool()
        if mask is not None:
            mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        hidden, rotary = self.embed(input_ids), self.rotary(position_ids)
        for layer in self.layers:
            hidden = layer(hidden, rotary, mask)
        logits = self.head(hidden)
        return LLaDAOutput(logits=logits) if return_dict else (logits,)


def positions_of(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Positions counted from the first one that is no padding, int64 `(rows, positions)`."""
    if attention_mask is None or attention_mask.ndim != 2:
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    return positions_in(attention_mask)


def positions_in(is_real: Tensor) -> Tensor:
    """The same of rows `(rows, positions)` that are false, or 0, at padding."""
    return (is_real.long().cumsum(1) - 1).clamp(min=0)


def whole_logits(model: nn.Module, tokens: Tensor, is_real: Tensor) -> Tensor:
    """Logits `(rows, positions, vocabulary)` of any model of this kind, ours or not.

    Args:
        model: called as `(input_ids, attention_mask, position_ids)`, the last if it takes them.
        tokens: int64 `(rows, positions)`.
        is_real: bool `(rows, positions)`, false at padding.
    """
    whole = bool(is_real.all())
    arguments: dict[str, Tensor | None] = {"attention_mask": None if whole else is_real.long()}
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = positions_in(is_real)
    output = model(tokens, **arguments)
    logits: Tensor = getattr(output, "logits", output)
    return logits
