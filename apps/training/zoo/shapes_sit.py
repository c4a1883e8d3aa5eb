"""Recipe of `shapes-sit`: a dense flow model, class to picture.

It is what `shapes-bfm` is compared with: the same data, batches, optimiser and number of steps, and
an evaluation costs the same to within 5 %.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from apps.training.bfm.initial import initialise
from apps.training.zoo.flow_batches import SEED, build_optimizers, flow_batch
from apps.training.zoo.publishing import publish_pipeline
from apps.training.zoo.shapes_bfm import BOUNDARIES, SIZES, STEPS
from apps.training.zoo.shapes_classes import CLASSES, encode_classes, load_vae
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from gensift.pipelines.bfm.pipeline import BFMPipeline
from gensift.pipelines.bfm.sit import SiTTransformer2DModel

DEPTH = 8
DEFAULTS = {"num_inference_steps": 12, "guidance_scale": 3.0}
"""Call arguments of the published pipeline, chosen as those of `shapes-bfm`."""


def build_transformer() -> SiTTransformer2DModel:
    """A fresh transformer of 2.4 M parameters."""
    torch.manual_seed(SEED)
    transformer: SiTTransformer2DModel = SiTTransformer2DModel(depth=DEPTH, **SIZES)
    initialise(transformer)
    return transformer


class FlowLoss(nn.Module):
    """Mean squared error of the velocity."""

    def __init__(self, transformer: SiTTransformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, latents: Tensor, sigma: Tensor, labels: Tensor, velocity: Tensor) -> Tensor:
        """`latents` and `velocity` `(batch, 16, 8, 8)`; `sigma` and `labels` `(batch,)`."""
        return mse_loss(self.transformer(latents, sigma, labels).sample, velocity)


def publish(folder: Path, steps: int | None = None) -> Path:
    """Train in `folder` and write the finished pipeline below it, weights in float16."""
    pipeline = train(folder, STEPS if steps is None else steps)
    return publish_pipeline(pipeline, folder / "model", DEFAULTS)


def train(folder: Path, steps: int = STEPS) -> BFMPipeline:
    """Train (or go on training) in `folder`; needs the zoo's `shapes-flux` and `shapes-clip`."""
    data = encode_classes(folder / "latents.safetensors")
    transformer = build_transformer()
    loss = torch.compile(FlowLoss(transformer))
    run = TrainingRun(
        folder / "transformer",
        steps,
        {"transformer": transformer},
        build_optimizers(transformer),
        warmup_then_decay(0.02, 0.6),
        average_decay=0.9995,
    )

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        batch = flow_batch(step, data, BOUNDARIES)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(batch.latents, batch.sigma, batch.labels, batch.velocity)
        return value, {"flow": value.item()}

    run.run(loss_at)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return BFMPipeline(load_vae(), transformer, scheduler, classes=CLASSES)
