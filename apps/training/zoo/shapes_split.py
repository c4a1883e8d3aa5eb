"""Recipe of a blockwise model made from the dense `shapes-sit`, without training it anew.

Its trunk runs once per segment; a small network (FRN) says how features change after that. FRN
first learns the trunk's features, then FRN and the stacks together learn the dense model's
velocity. The trunk and the shared parts stay as they are. The result is not shipped: it would be
the largest of the zoo. `python -m benchmarks.bfm` trains and measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from apps.training.bfm.initial import initialise
from apps.training.bfm.losses import ApproximationLoss, DistillationLoss
from apps.training.zoo.flow_batches import SEED, build_optimizers, flow_batch
from apps.training.zoo.shapes_bfm import BOUNDARIES, FINE_TUNING, SEGMENTS
from apps.training.zoo.shapes_classes import CLASSES, LabelledLatents, encode_classes, load_vae
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from gensift.pipelines.bfm.pipeline import BFMPipeline
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.split import SplitTransformer2DModel, split_dense
from gensift.pipelines.loading import load_pipeline

STEPS = 600
APPROXIMATION_SHARE = 2 / 3
"""Steps of the first stage for each one of the second."""
TRUNK_DEPTH, FRN_DEPTH, RANK = 6, 1, 8


def build(dense: SiTTransformer2DModel) -> SplitTransformer2DModel:
    """The dense model in blocks, equal to it as long as features are not approximated."""
    torch.manual_seed(SEED)
    model = split_dense(dense, SEGMENTS, TRUNK_DEPTH, frn_depth=FRN_DEPTH, adaln_rank=RANK)
    initialise(model.frn)
    return model


def train(folder: Path, steps: int = STEPS) -> BFMPipeline:
    """Train (or go on training) in `folder`, both stages; `steps` are those of the second.

    Needs the zoo's `shapes-sit`, `shapes-flux` and `shapes-clip`.
    """
    dense = load_pipeline("shapes-sit", dtype="float32", device="cpu").transformer
    data = encode_classes(folder / "latents.safetensors")
    model = build(dense)
    first_steps = max(1, round(APPROXIMATION_SHARE * steps))
    _train(ApproximationLoss(model), {"frn": model.frn}, data, folder / "frn", first_steps)
    loss = DistillationLoss(model, dense.requires_grad_(False))
    _train(loss, {"frn": model.frn, "segments": model.segments}, data, folder / "stacks", steps)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return BFMPipeline(load_vae(), model.eval(), scheduler, classes=CLASSES)


def _train(
    loss: ApproximationLoss | DistillationLoss,
    trained: Mapping[str, nn.Module],
    data: LabelledLatents,
    folder: Path,
    steps: int,
) -> None:
    loss.requires_grad_(False)
    for part in trained.values():
        part.requires_grad_(True)
    is_first = isinstance(loss, ApproximationLoss)
    compiled = torch.compile(loss)

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        batch = flow_batch(step, data, BOUNDARIES)
        with torch.autocast("cpu", torch.bfloat16):
            approximated, other = compiled(*(batch.both_ends if is_first else batch.led_from_start))
        figures = {"approximated": approximated.item(), "other": other.item()}
        return (approximated if is_first else approximated + other), figures

    TrainingRun(
        folder,
        steps,
        trained,
        build_optimizers(*trained.values(), rate=1.0 if is_first else FINE_TUNING),
        warmup_then_decay(0.02, 0.6),
        average_decay=0.998,
    ).run(loss_at)
