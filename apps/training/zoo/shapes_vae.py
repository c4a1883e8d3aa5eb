"""Recipe of the autoencoder of `shapes-flux`: `AutoencoderKL`, factor 8, 16 latent channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from gensift.zoo.shapes.grammar import KINDS
from gensift.zoo.shapes.scenes import place
from gensift.zoo.shapes.world import CANVAS, render

STEPS = 1700
BATCH = 32
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-3
MAX_OBJECTS = 4
SEED = 11


def build() -> AutoencoderKL:
    """A fresh autoencoder of 0.9 M parameters."""
    torch.manual_seed(SEED)
    return AutoencoderKL(
        block_out_channels=(16, 32, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=CANVAS,
    )


def batch_at(step: int, size: int = BATCH) -> Tensor:
    """Rendered scenes of one to four random objects: float `(size, 3, 64, 64)` in [-1, 1].

    The autoencoder never sees a prompt, so no prompt is held out from it.
    """
    rng = np.random.default_rng((SEED, step))
    pictures = []
    for _ in range(size):
        chosen = rng.integers(0, len(KINDS), size=rng.integers(1, MAX_OBJECTS + 1))
        pictures.append(render(place([KINDS[i] for i in chosen], rng)))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1


def train(folder: Path, steps: int = STEPS) -> AutoencoderKL:
    """Train (or go on training) in `folder`; returns the averaged autoencoder, normalised."""
    vae = build()
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01
    )

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        pixels = batch_at(step)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            generator = torch.Generator().manual_seed(SEED + step)
            decoded = vae.decode(posterior.sample(generator)).sample.float()
        absolute = (decoded - pixels).abs().mean()
        squared = (decoded - pixels).square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = absolute + 2 * squared + KL_WEIGHT * kl
        return loss, {"mse": squared.item(), "l1": absolute.item(), "kl": kl.item()}

    run = TrainingRun(
        folder, steps, {"vae": vae}, [optimizer], warmup_then_decay(0.03, 0.4), average_decay=0.995
    )
    run.run(loss_at)
    return _normalise(vae, steps)


@torch.no_grad()
def _normalise(vae: AutoencoderKL, steps: int) -> AutoencoderKL:
    """Choose `scaling_factor` and `shift_factor` so that latents have mean 0 and deviation 1."""
    latents = torch.cat(
        [vae.encode(batch_at(steps + index, 64)).latent_dist.mode() for index in range(8)]
    )
    vae.register_to_config(
        scaling_factor=round(float(1 / latents.std()), 5),
        shift_factor=round(float(latents.mean()), 5),
    )
    return vae
