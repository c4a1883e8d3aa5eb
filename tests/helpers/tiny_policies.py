"""Small policies with random weights: ours, one of torch's decoder alone, and a gated one.

The last has the module layout of lerobot's multi_task_dit: `transformer_blocks` with `attn`, or
`multihead_attn` that returns a tuple, and `mlp`; gates are outside of both.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from gensift.pipelines.policy.normalizer import LinearNormalizer
from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline
from gensift.pipelines.policy.transformer import DiffusionPolicyTransformer

OBS, DIM, ACTION, HORIZON = 2, 5, 3, 6
WIDTH, LAYERS = 16, 3


def scheduler(prediction_type: str = "epsilon") -> Any:
    """Ten training steps of the cosine schedule."""
    return DDPMScheduler(
        num_train_timesteps=20,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        clip_sample=True,
    )


def transformer(**changes: Any) -> DiffusionPolicyTransformer:
    """Ours, with weights large enough to matter."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "input_dim": ACTION,
        "output_dim": ACTION,
        "horizon": HORIZON,
        "n_obs_steps": OBS,
        "cond_dim": DIM,
        "n_layer": LAYERS,
        "n_head": 2,
        "n_emb": WIDTH,
    }
    model: DiffusionPolicyTransformer = DiffusionPolicyTransformer(**sizes | changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def pipeline(**changes: Any) -> Any:
    """A policy pipeline that observes five numbers twice and plans six actions of three."""
    normalizer: LinearNormalizer = LinearNormalizer(obs_dim=DIM, action_dim=ACTION)
    normalizer.obs.fit(torch.linspace(-2, 3, 4)[:, None] * torch.arange(1, DIM + 1))
    normalizer.action.fit(torch.tensor([[-1.0, -2.0, 0.5], [1.0, 4.0, 0.5]]))
    pipe = DiffusionPolicyPipeline(
        transformer(**changes), scheduler(), normalizer, n_action_steps=4
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def observations(batch: int, seed: int = 0) -> Tensor:
    """Random ones, `(batch, OBS, DIM)`."""
    return torch.randn(batch, OBS, DIM, generator=torch.Generator().manual_seed(seed))


class PlainPolicy(nn.Module):
    """A policy as anybody writes one, around torch's decoder; `mask` hides later actions."""

    def __init__(self, *, norm_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(
            WIDTH, 2, 4 * WIDTH, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.into, self.out = nn.Linear(ACTION, WIDTH), nn.Linear(WIDTH, ACTION)
        self.look = nn.Linear(DIM, WIDTH)
        self.decoder = nn.TransformerDecoder(layer, LAYERS)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(HORIZON))

    def forward(self, actions: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        memory = self.look(cond) + timestep.view(-1, 1, 1) / 20
        hidden = self.decoder(self.into(actions), memory, tgt_mask=self.mask)
        predicted: Tensor = self.out(hidden)
        return predicted


class GatedBlock(nn.Module):
    """A block with the layout of lerobot's `TransformerBlock`."""

    def __init__(self, *, has_own_attention: bool) -> None:
        super().__init__()
        self.is_own = has_own_attention
        if has_own_attention:
            self.attn = nn.Linear(WIDTH, WIDTH)
        else:
            self.multihead_attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.adaLN_modulation = nn.Linear(1 + DIM, 2 * WIDTH)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        first, second = self.adaLN_modulation(features)[:, None].chunk(2, dim=-1)
        out = self.attn(x) if self.is_own else self.multihead_attn(x, x, x)[0]
        x = x + first * out
        mixed: Tensor = x + second * self.mlp(x)
        return mixed


class GatedPolicy(nn.Module):
    """A denoiser with the layout of lerobot's `DiffusionTransformer`; `config` is no mapping."""

    def __init__(self, *, has_own_attention: bool) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_layers=LAYERS)
        self.input_proj, self.output_proj = nn.Linear(ACTION, WIDTH), nn.Linear(WIDTH, ACTION)
        self.transformer_blocks = nn.ModuleList(
            [GatedBlock(has_own_attention=has_own_attention) for _ in range(LAYERS)]
        )

    def forward(self, x: Tensor, timestep: Tensor, conditioning_vec: Tensor) -> Tensor:
        features = torch.cat([timestep.view(-1, 1) / 20, conditioning_vec], dim=-1)
        hidden = self.input_proj(x)
        for block in self.transformer_blocks:
            hidden = block(hidden, features)
        predicted: Tensor = self.output_proj(hidden)
        return predicted


def holder(model: nn.Module) -> Any:
    """A pipeline in so far as caches look at one."""
    return SimpleNamespace(model=model.eval(), scheduler=scheduler("sample"))


@torch.no_grad()
def run(pipe: Any, cond: Tensor, steps: int, seed: int = 0) -> Tensor:
    """A denoising loop as policies have it, over `holder`'s model."""
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(cond))]
    sample = torch.stack([torch.randn(HORIZON, ACTION, generator=g) for g in generators])
    pipe.scheduler.set_timesteps(steps)
    for timestep in pipe.scheduler.timesteps:
        times = torch.full((len(sample),), float(timestep))
        output = pipe.model(sample, times, cond)
        sample = pipe.scheduler.step(output, timestep, sample, generator=generators).prev_sample
    return sample
