"""Recipe of the tokenizer of `shapes-infinity`: 16 bits per token, 130 tokens on six grids."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from apps.training.zoo.shapes_vae import batch_at
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.next_scale.scales import square_schedule

SCHEDULE = square_schedule((1, 2, 3, 4, 6, 8))
STEPS = 2_400
PREVIEW_STEPS = 900
BATCH = 32
LEARNING_RATE = 2e-3
PREVIEW_RATE = 1e-3
COMMITMENT = 0.25
SEED = 61


def build() -> InfinityTokenizer:
    """A fresh tokenizer of 0.8 M parameters: factor 8, 16 channels."""
    torch.manual_seed(SEED)
    tokenizer: InfinityTokenizer = InfinityTokenizer(
        latent_channels=16,
        block_out_channels=(16, 32, 48, 64),
        layers_per_block=1,
        norm_num_groups=8,
    )
    return tokenizer


def train(folder: Path, steps: int = STEPS) -> InfinityTokenizer:
    """Train (or go on training) in `folder`; returns the averaged tokenizer.

    First the whole; then the decoder alone learns to show sums that lack their finest scales, which
    searches look at. The bits stay what they are.
    """
    tokenizer = train_whole(folder, steps)
    train_previews(tokenizer, folder / "previews")
    return tokenizer


def train_whole(folder: Path, steps: int = STEPS) -> InfinityTokenizer:
    """Train encoder and decoder on sums of all scales."""
    tokenizer = build()
    optimizer = torch.optim.AdamW(
        tokenizer.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01
    )

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        pixels = batch_at(step, BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            latents = tokenizer.encoder(pixels)
        latents = latents.float()
        coded = tokenizer.quantize(latents.detach(), SCHEDULE.scales).latents
        with torch.autocast("cpu", torch.bfloat16):
            # The gradient passes the quantizer as if it were not there.
            decoded = tokenizer.decoder(latents + (coded - latents).detach()).float()
        absolute = (decoded - pixels).abs().mean()
        squared = mse_loss(decoded, pixels)
        commitment = mse_loss(latents, coded)
        loss = absolute + 2 * squared + COMMITMENT * commitment
        figures = {"mse": squared.item(), "l1": absolute.item(), "commitment": commitment.item()}
        return loss, figures

    run = TrainingRun(
        folder,
        steps,
        {"tokenizer": tokenizer},
        [optimizer],
        warmup_then_decay(0.03, 0.4),
        average_decay=0.995,
    )
    run.run(loss_at)
    return tokenizer


def train_previews(tokenizer: InfinityTokenizer, folder: Path, steps: int = PREVIEW_STEPS) -> None:
    """Train the decoder on whole sums, and every fourth time on unfinished ones.

    Of an unfinished sum the mean of all pictures that it may become is wanted, hence the squared
    error alone.
    """
    optimizer = torch.optim.AdamW(
        tokenizer.decoder.parameters(), lr=PREVIEW_RATE, betas=(0.9, 0.99), weight_decay=0.01
    )

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        pixels = batch_at(STEPS + step, BATCH)
        last = len(SCHEDULE) - 1
        generator = torch.Generator().manual_seed(SEED + step)
        done = last if step % 4 else int(torch.randint(last, (1,), generator=generator))
        sums = sums_up_to(tokenizer, (pixels + 1) / 2, done)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = tokenizer.decoder(sums).float()
        squared = mse_loss(decoded, pixels)
        absolute = (decoded - pixels).abs().mean()
        loss = 2 * squared + (absolute if done == last else 0.0)
        return loss, {f"mse {done}": squared.item()}

    run = TrainingRun(
        folder,
        steps,
        {"decoder": tokenizer.decoder},
        [optimizer],
        warmup_then_decay(0.05, 0.4),
        average_decay=0.99,
    )
    run.run(loss_at)


@torch.no_grad()
def sums_up_to(tokenizer: InfinityTokenizer, pictures: Tensor, last: int) -> Tensor:
    """Latents of pictures in [0, 1], of the bits of the scales up to `last` alone.

    `pictures` float `(rows, 3, height, width)`; latents float32 `(rows, channels, rows of tokens,
    columns of tokens)`.
    """
    with torch.autocast("cpu", torch.bfloat16):
        latents = tokenizer.encode(pictures)
    bits = tokenizer.quantize(latents.float(), SCHEDULE.scales).bits
    total = torch.zeros_like(latents, dtype=torch.float32)
    for index, grid in enumerate(bits[: last + 1]):
        total = tokenizer.add(total, grid, index, len(SCHEDULE))
    return total
