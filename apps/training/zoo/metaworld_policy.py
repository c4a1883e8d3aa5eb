"""Recipe of `metaworld-policy`: a Diffusion Policy that imitates Meta-World's scripted experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from apps.training.zoo.publishing import publish_pipeline
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from gensift.pipelines.policy.normalizer import LinearNormalizer
from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline
from gensift.pipelines.policy.transformer import DiffusionPolicyTransformer
from gensift.zoo.metaworld.demonstrations import Demonstration, record
from gensift.zoo.metaworld.tasks import ACTION_DIM, OBSERVATION_DIM

STEPS = 4_000
BATCH = 128
RATE = 1e-3
WEIGHT_DECAY = 1e-3
SEED = 61
WIDTH, HEADS, LAYERS = 96, 4, 8
HORIZON, OBS_STEPS, ACTION_STEPS = 8, 1, 8
"""One observation: with two, the policy infers the last action from them and repeats it."""
TRAIN_TIMESTEPS = 100
DEFAULTS = {"num_inference_steps": TRAIN_TIMESTEPS}
"""Call arguments of the published pipeline."""


@dataclass(frozen=True)
class Windows:
    """Pieces of episodes: what was seen, and the actions from the first of these on.

    Attributes:
        observations: float32 `(count, OBS_STEPS, OBSERVATION_DIM)`, normalised.
        actions: float32 `(count, HORIZON, ACTION_DIM)`, normalised.
    """

    observations: Tensor
    actions: Tensor


def build_transformer() -> DiffusionPolicyTransformer:
    """A fresh transformer of 1.3 M parameters: many thin layers, which is where caches help."""
    torch.manual_seed(SEED)
    transformer: DiffusionPolicyTransformer = DiffusionPolicyTransformer(
        input_dim=ACTION_DIM,
        output_dim=ACTION_DIM,
        horizon=HORIZON,
        n_obs_steps=OBS_STEPS,
        cond_dim=OBSERVATION_DIM,
        n_layer=LAYERS,
        n_head=HEADS,
        n_emb=WIDTH,
        p_drop_attn=0.0,
    )
    for name, parameter in transformer.named_parameters():
        if parameter.ndim == 2:
            # At the published 0.02, what is seen is lost on its way through so thin a model, and is
            # found only late.
            is_last = name.endswith(("out_proj.weight", "linear2.weight"))
            share = 3 * LAYERS if is_last else 1
            nn.init.normal_(parameter, std=(parameter.shape[1] * share) ** -0.5)
    return transformer


def build_scheduler() -> DDPMScheduler:
    """A hundred steps of a cosine schedule; the network tells the actions themselves."""
    return DDPMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=True,
    )


def publish(folder: Path, steps: int | None = None) -> Path:
    """Train in `folder` and write the finished pipeline below it, weights in float16."""
    return publish_pipeline(
        train(folder, STEPS if steps is None else steps), folder / "model", DEFAULTS
    )


def train(folder: Path, steps: int = STEPS) -> DiffusionPolicyPipeline:
    """Train (or go on training) in `folder`; demonstrations are recorded first if need be."""
    demonstrations = record(folder / "demonstrations")
    normalizer = fit_normalizer(demonstrations)
    windows = cut_windows(demonstrations, normalizer)
    transformer, scheduler = build_transformer(), build_scheduler()
    run = TrainingRun(
        folder / "transformer",
        steps,
        {"transformer": transformer},
        [torch.optim.AdamW(transformer.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)],
        warmup_then_decay(0.03, 0.5),
        average_decay=0.995,
    )

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
        rows = torch.randint(len(windows.actions), (BATCH,), generator=generator)
        actions = windows.actions[rows]
        times = torch.randint(TRAIN_TIMESTEPS, (BATCH,), generator=generator)
        noise = torch.randn(actions.shape, generator=generator)
        noisy = scheduler.add_noise(actions, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = transformer(noisy, times, windows.observations[rows])
        value = mse_loss(predicted.float(), actions)
        return value, {"loss": value.item()}

    run.run(loss_at)
    return DiffusionPolicyPipeline(
        transformer=transformer,
        scheduler=scheduler,
        normalizer=normalizer,
        n_action_steps=ACTION_STEPS,
    )


def fit_normalizer(demonstrations: Sequence[Demonstration]) -> LinearNormalizer:
    """The limits of all observations; actions are in [-1, 1] as they are."""
    normalizer: LinearNormalizer = LinearNormalizer(obs_dim=OBSERVATION_DIM, action_dim=ACTION_DIM)
    seen = np.concatenate([episode.observations for episode in demonstrations])
    normalizer.obs.fit(torch.from_numpy(seen))
    return normalizer


def cut_windows(demonstrations: Sequence[Demonstration], normalizer: LinearNormalizer) -> Windows:
    """One window per recorded step, which is the last that is seen.

    Before its beginning an episode stood still; after its end the last action goes on.
    """
    observations, actions = [], []
    for episode in demonstrations:
        now = np.arange(len(episode.actions))[:, None]
        seen = now - (OBS_STEPS - 1) + np.arange(OBS_STEPS)
        done = now - (OBS_STEPS - 1) + np.arange(HORIZON)
        last = len(episode.actions) - 1
        observations.append(episode.observations[seen.clip(0, last)])
        actions.append(episode.actions[done.clip(0, last)])
    return Windows(
        normalizer.obs.normalize(torch.from_numpy(np.concatenate(observations))),
        normalizer.action.normalize(torch.from_numpy(np.concatenate(actions))),
    )
