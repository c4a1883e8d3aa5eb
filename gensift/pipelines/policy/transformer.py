"""The transformer of Diffusion Policy, with the parameter names of published checkpoints.

Source: Chi et al., "Diffusion Policy" (arXiv 2303.04137), time-series diffusion transformer; the
layout is that of `TransformerForDiffusion` in the authors' repository.
"""

from __future__ import annotations

import math

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from gensift.errors import ConfigError
from gensift.protocols import JsonObject

INIT_STD = 0.02


class SinusoidalPosEmb(nn.Module):
    """Sines and cosines of a number at geometric frequencies, 1 to 1/10000."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        steps = torch.arange(half, dtype=torch.float32) * -(math.log(10000) / max(1, half - 1))
        self.register_buffer("frequencies", steps.exp(), persistent=False)
        self.frequencies: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(batch, dim)` of numbers `(batch,)`."""
        angles = x[:, None].float() * self.frequencies.float()
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class DiffusionPolicyTransformer(ModelMixin, ConfigMixin):
    """Predicts the noise in (or the clean value of) a sequence of actions.

    A pre-norm decoder over actions, which looks at condition tokens: the timestep and the last
    observations. Names and shapes of parameters are those of the published models; the buffers of
    its masks are not kept, as they follow from the config.

    Args:
        input_dim: numbers per action.
        output_dim: numbers predicted per action.
        horizon: actions in a sequence.
        n_obs_steps: observations that condition it.
        cond_dim: numbers per observation.
        n_layer: decoder layers.
        n_head: attention heads.
        n_emb: channels.
        p_drop_emb: dropout of embeddings, in training.
        p_drop_attn: dropout within layers, in training.
        causal_attn: whether an action sees only itself, earlier ones, and no later observation.
        n_cond_layers: encoder layers over condition tokens; 0 for an MLP.

    Raises:
        ConfigError: sizes that do not go together.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        *,
        input_dim: int,
        output_dim: int,
        horizon: int,
        n_obs_steps: int,
        cond_dim: int,
        n_layer: int = 8,
        n_head: int = 4,
        n_emb: int = 256,
        p_drop_emb: float = 0.0,
        p_drop_attn: float = 0.3,
        causal_attn: bool = True,
        n_cond_layers: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(n_emb, n_head, cond_dim, n_obs_steps)
        shape: JsonObject = {
            "d_model": n_emb,
            "nhead": n_head,
            "dim_feedforward": 4 * n_emb,
            "dropout": p_drop_attn,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }
        self.input_emb = nn.Linear(input_dim, n_emb)
        self.pos_emb = nn.Parameter(torch.zeros(1, horizon, n_emb))
        self.drop = nn.Dropout(p_drop_emb)
        self.time_emb = SinusoidalPosEmb(n_emb)
        self.cond_obs_emb = nn.Linear(cond_dim, n_emb)
        self.cond_pos_emb = nn.Parameter(torch.zeros(1, 1 + n_obs_steps, n_emb))
        self.encoder: nn.Module = (
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(**shape), n_cond_layers, enable_nested_tensor=False
            )
            if n_cond_layers
            else nn.Sequential(nn.Linear(n_emb, 4 * n_emb), nn.Mish(), nn.Linear(4 * n_emb, n_emb))
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**shape), n_layer)
        self.ln_f = nn.LayerNorm(n_emb)
        self.head = nn.Linear(n_emb, output_dim)
        action, condition = _masks(horizon, 1 + n_obs_steps) if causal_attn else (None, None)
        self.register_buffer("mask", action, persistent=False)
        self.register_buffer("memory_mask", condition, persistent=False)
        self.apply(_initialise)

    def forward(self, sample: Tensor, timestep: Tensor | float, cond: Tensor) -> Tensor:
        """The prediction for noisy actions, `(batch, horizon, output_dim)`.

        Args:
            sample: noisy actions, `(batch, horizon, input_dim)`.
            timestep: the scheduler's own value, one number or `(batch,)`.
            cond: observations, `(batch, n_obs_steps, cond_dim)`.
        """
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        time = self.time_emb(times).to(sample.dtype)[:, None]
        tokens = torch.cat([time, self.cond_obs_emb(cond)], dim=1)
        memory = self.encoder(self.drop(tokens + self.cond_pos_emb[:, : tokens.shape[1]]))
        hidden = self.drop(self.input_emb(sample) + self.pos_emb[:, : sample.shape[1]])
        hidden = self.decoder(
            tgt=hidden,
            memory=memory,
            tgt_mask=self.mask,
            memory_mask=self.memory_mask,
            tgt_is_causal=self.mask is not None,  # else torch looks at the mask at every call
        )
        predicted: Tensor = self.head(self.ln_f(hidden))
        return predicted


def _check_sizes(n_emb: int, n_head: int, cond_dim: int, n_obs_steps: int) -> None:
    problems = []
    if n_emb % n_head or n_emb % 2:
        problems.append(f"`n_emb` is {n_emb}: give an even multiple of `n_head`, which is {n_head}")
    if cond_dim < 1 or n_obs_steps < 1:
        problems.append(
            f"`cond_dim` is {cond_dim} and `n_obs_steps` {n_obs_steps}: give at least 1 of both; "
            "the variant without observations as condition is not built"
        )
    if problems:
        raise ConfigError.from_problems("DiffusionPolicyTransformer", problems)


def _masks(actions: int, tokens: int) -> tuple[Tensor, Tensor]:
    """What actions may see of each other and of condition tokens: 0, or minus infinity.

    The first condition token is the timestep; the one after it is the first observation.
    """
    time, other = torch.arange(actions)[:, None], torch.arange(actions)[None]
    condition = torch.arange(tokens)[None]
    forbidden = (other > time, condition - 1 > time)
    action, memory = (torch.zeros(m.shape).masked_fill(m, -math.inf) for m in forbidden)
    return action, memory


def _initialise(module: nn.Module) -> None:
    """Source: as in the authors' repository, after GPT."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=INIT_STD)
        nn.init.zeros_(module.in_proj_bias)
    elif isinstance(module, DiffusionPolicyTransformer):
        nn.init.normal_(module.pos_emb, std=INIT_STD)
        nn.init.normal_(module.cond_pos_emb, std=INIT_STD)
