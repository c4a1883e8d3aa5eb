"""Recipe of `shapes-bfm`: blockwise flow matching, class to picture.

Stage 1 trains everything but FRN by flow matching, while the trunk's features are drawn towards
those of `shapes-clip`; stage 2 trains FRN alone, to say how those features change; stage 3 trains
FRN and the stacks together, so that stacks make up for what FRN misses.

Source: Blockwise Flow Matching, arXiv 2510.21167, whose feature encoder is DINOv2. Stage 3 is ours:
features approximated by so small a FRN spoil what stacks have learned from true ones.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from apps.training.bfm.initial import initialise
from apps.training.bfm.losses import (
    ApproximationLoss,
    DistillationLoss,
    VelocityLoss,
    build_projection,
)
from apps.training.zoo.flow_batches import (
    SEED,
    build_optimizers,
    flow_batch,
)
from apps.training.zoo.publishing import publish_pipeline
from apps.training.zoo.shapes_classes import CLASSES, LabelledLatents, encode_classes, load_vae
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from gensift.pipelines.bfm.pipeline import BFMPipeline
from gensift.pipelines.bfm.schedule import uniform_boundaries
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel

STEPS = 7_000
APPROXIMATION_SHARE = 0.2
"""Steps of stage 2 for each one of stage 1."""
JOINT_SHARE = 0.2
"""Steps of stage 3 for each one of stage 1."""
FINE_TUNING = 0.3
"""Learning rates of stage 3, as a share of those of stage 1."""
SEGMENTS = 4
BOUNDARIES = uniform_boundaries(SEGMENTS)
WIDTH = 128
SIZES = {
    "hidden_size": WIDTH,
    "num_heads": 4,
    "patch_size": 2,
    "sample_size": 8,
    "in_channels": 16,
    "num_classes": len(CLASSES),
}
BLOCKS = {"trunk_depth": 6, "segment_depth": 1, "frn_depth": 1, "adaln_rank": 32}
ALIGNMENT_WEIGHT = 0.05
FEATURE_CHANNELS = 128
DEFAULTS = {"num_inference_steps": 12, "guidance_scale": 2.0}
"""Call arguments of the published pipeline; of guidance 1, 1.5, 2 and 3 the nearest to rendered
pictures at 12 steps, with other seeds than those that are reported."""


def build_transformer() -> BFMTransformer2DModel:
    """A fresh transformer of 3 M parameters."""
    torch.manual_seed(SEED)
    transformer: BFMTransformer2DModel = BFMTransformer2DModel(
        num_segments=SEGMENTS, **BLOCKS, **SIZES
    )
    initialise(transformer)
    return transformer


def publish(folder: Path, steps: int | None = None) -> Path:
    """Train in `folder` and write the finished pipeline below it, weights in float16."""
    pipeline = train(folder, STEPS if steps is None else steps)
    return publish_pipeline(pipeline, folder / "model", DEFAULTS)


def train(folder: Path, steps: int = STEPS) -> BFMPipeline:
    """Train (or go on training) in `folder`, all stages; `steps` are those of the first.

    Needs the zoo's `shapes-flux` and `shapes-clip`.
    """
    data = encode_classes(folder / "latents.safetensors")
    transformer = build_transformer()
    train_flow(transformer, data, folder / "transformer", steps)
    train_approximation(
        transformer, data, folder / "frn", max(1, round(APPROXIMATION_SHARE * steps))
    )
    train_jointly(transformer, data, folder / "joint", max(1, round(JOINT_SHARE * steps)))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return BFMPipeline(load_vae(), transformer, scheduler, classes=CLASSES)


def train_flow(
    transformer: BFMTransformer2DModel, data: LabelledLatents, folder: Path, steps: int
) -> None:
    """Stage 1."""
    projection = build_projection(WIDTH, FEATURE_CHANNELS, 2 * WIDTH)
    transformer.frn.requires_grad_(False)
    loss = torch.compile(VelocityLoss(transformer, projection))

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        batch = flow_batch(step, data, BOUNDARIES)
        with torch.autocast("cpu", torch.bfloat16):
            flow, alignment = loss(
                batch.latents, batch.sigma, batch.labels, batch.velocity, batch.features
            )
        figures = {"flow": flow.item(), "alignment": alignment.item()}
        return flow + ALIGNMENT_WEIGHT * alignment, figures

    TrainingRun(
        folder,
        steps,
        {"transformer": transformer, "projection": projection},
        build_optimizers(transformer, projection),
        warmup_then_decay(0.02, 0.6),
        average_decay=0.9995,
    ).run(loss_at)


def train_approximation(
    transformer: BFMTransformer2DModel, data: LabelledLatents, folder: Path, steps: int
) -> None:
    """Stage 2: FRN alone, its input the patches of the finished trunk."""
    transformer.requires_grad_(False)
    transformer.frn.requires_grad_(True)
    loss = torch.compile(ApproximationLoss(transformer))

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        batch = flow_batch(step, data, BOUNDARIES)
        with torch.autocast("cpu", torch.bfloat16):
            value, held = loss(*batch.both_ends)
        return value, {"approximated": value.item(), "held": held.item()}

    TrainingRun(
        folder,
        steps,
        {"frn": transformer.frn},
        build_optimizers(transformer.frn),
        warmup_then_decay(0.02, 0.6),
        average_decay=0.998,
    ).run(loss_at)


def train_jointly(
    transformer: BFMTransformer2DModel, data: LabelledLatents, folder: Path, steps: int
) -> None:
    """Stage 3: FRN and the stacks, taught by the model as it is; the rest is finished."""
    transformer.requires_grad_(False)
    trained = {"frn": transformer.frn, "segments": transformer.segments}
    for part in trained.values():
        part.requires_grad_(True)
    teacher = copy.deepcopy(transformer).requires_grad_(False)
    loss = torch.compile(DistillationLoss(transformer, teacher))

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        batch = flow_batch(step, data, BOUNDARIES)
        with torch.autocast("cpu", torch.bfloat16):
            approximated, exact = loss(*batch.led_from_start)
        return approximated + exact, {"approximated": approximated.item(), "exact": exact.item()}

    TrainingRun(
        folder,
        steps,
        trained,
        build_optimizers(*trained.values(), rate=FINE_TUNING),
        warmup_then_decay(0.02, 0.5),
        average_decay=0.998,
    ).run(loss_at)
