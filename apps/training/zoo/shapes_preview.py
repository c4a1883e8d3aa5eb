"""Recipe of the preview decoder of `shapes-flux`: an `AutoencoderTiny` distilled from its VAE.

Searches look at many early estimates; a decoder of an eighth of the cost is enough for that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from apps.training.zoo.shapes_latents import LatentScenes, encode_scenes
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from gensift.pipelines.loading import load_pipeline

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

STEPS = 6_000
BATCH = 16
LEARNING_RATE = 3e-3
SCENES = 8_192
SEED = 61
_MAX_NOISE = 0.5


def build() -> AutoencoderTiny:
    """A fresh autoencoder, of which only the decoder (45,000 parameters) is trained and used."""
    torch.manual_seed(SEED)
    return AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=(0,) * 4,
        num_decoder_blocks=(2, 2, 1, 0),
    )


def publish(folder: Path, steps: int | None = None) -> Path:
    """Train in `folder` and write the finished decoder below it; needs the zoo's `shapes-flux`."""
    finished = folder / "model"
    train(folder, STEPS if steps is None else steps).half().save_pretrained(finished)
    # diffusers writes this key although it warns when it reads it.
    config = json.loads((finished / "config.json").read_text())
    config.pop("block_out_channels", None)
    (finished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return finished


def train(folder: Path, steps: int = STEPS) -> AutoencoderTiny:
    """Train (or go on training) in `folder`; returns the averaged autoencoder."""
    folder.mkdir(parents=True, exist_ok=True)
    vae = load_pipeline("shapes-flux", dtype="float32", device="cpu").vae
    scenes = encode_scenes(vae, folder / "latents.safetensors", SCENES)
    tiny = build()
    optimizer = torch.optim.AdamW(tiny.decoder.parameters(), lr=LEARNING_RATE, weight_decay=0.01)

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        latents = estimates(scenes, step)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            wanted = _decode(vae, latents).clamp(-1, 1)
        difference = tiny.decode(latents).sample - wanted
        absolute, squared = difference.abs().mean(), difference.square().mean()
        return absolute + 2 * squared, {"mse": squared.item(), "l1": absolute.item()}

    run = TrainingRun(
        folder,
        steps,
        {"decoder": tiny.decoder},
        [optimizer],
        warmup_then_decay(0.03, 0.4),
        average_decay=0.99,
    )
    run.run(loss_at)
    return tiny


def estimates(scenes: LatentScenes, step: int) -> Tensor:
    """Latents such as a denoiser estimates early: `(batch, 16, 8, 8)`.

    Half are those of a scene, half a blend of three, which is what an undecided denoiser predicts;
    all with some noise.
    """
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    latents, _ = scenes.draw(3 * BATCH, generator)
    share = torch.rand(BATCH, 3, generator=generator).softmax(1)
    share[: BATCH // 2] = torch.tensor([1.0, 0.0, 0.0])
    blend = torch.einsum("bk,bkchw->bchw", share, latents.view(BATCH, 3, *latents.shape[1:]))
    level = _MAX_NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator).square()
    return blend + level * torch.randn(blend.shape, generator=generator)


def _decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    config = vae.config
    decoded: Tensor = vae.decode(latents / config.scaling_factor + config.shift_factor).sample
    return decoded.float()
