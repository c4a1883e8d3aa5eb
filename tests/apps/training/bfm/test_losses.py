"""Losses against the model called row by row; which parameters they reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from apps.training.bfm.batches import FlowBatch, make_batch
from apps.training.bfm.losses import (
    ApproximationLoss,
    DistillationLoss,
    VelocityLoss,
    build_projection,
)
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.split import split_dense
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel

SIZES = {
    "hidden_size": 32,
    "num_heads": 2,
    "patch_size": 2,
    "sample_size": 4,
    "in_channels": 3,
    "num_classes": 5,
}
BOUNDARIES = (1.0, 0.7, 0.2, 0.0)
ROWS = 8
"""Not a multiple of three segments: they get 3, 3 and 2 rows."""


def disturbed(module: torch.nn.Module) -> Any:
    """What starts at zero would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture
def model() -> Any:
    return disturbed(
        BFMTransformer2DModel(
            num_segments=3,
            segment_depth=1,
            trunk_depth=2,
            frn_depth=1,
            adaln_rank=4,
            boundaries=BOUNDARIES,
            **SIZES,
        )
    )


@pytest.fixture
def dense() -> Any:
    return disturbed(SiTTransformer2DModel(depth=3, **SIZES))


@pytest.fixture
def split(dense: Any) -> Any:
    return split_dense(dense, 3, 2, frn_depth=1, boundaries=BOUNDARIES, adaln_rank=4)


@pytest.fixture
def batch() -> FlowBatch:
    generator = torch.Generator().manual_seed(3)
    data = torch.randn(ROWS, 3, 4, 4, generator=generator)
    return make_batch(
        data,
        torch.arange(ROWS) % 5,
        torch.randn(ROWS, 4, 6, generator=generator),
        BOUNDARIES,
        null_label=5,
        label_dropout=0.3,
        generator=generator,
    )


def row_calls(model: Any, batch: FlowBatch, *, approximated: bool = False) -> list[Any]:
    """The model's output for each row, called as the pipeline calls it."""
    found = []
    for row in range(ROWS):
        one = slice(row, row + 1)
        sigma, label = batch.sigma[one], batch.labels[one]
        latents = (1 - sigma) * batch.data[one] + sigma * batch.noise[one]
        if not approximated:
            found.append(model(latents, sigma, label))
            continue
        start = batch.start[one]
        at_start = (1 - start) * batch.data[one] + start * batch.noise[one]
        segment = BOUNDARIES.index(pytest.approx(float(start)))
        held = model(at_start, start, label, segment=segment).features
        width = BOUNDARIES[segment] - BOUNDARIES[segment + 1]
        output = model(
            latents,
            sigma,
            label,
            segment=segment,
            features=held,
            residual_weight=(start - sigma) / width,
        )
        found.append(output)
    return found


def mean_error(found: list[Tensor], wanted: Tensor) -> float:
    return float((torch.cat(found) - wanted).square().mean())


@torch.no_grad()
def test_velocity_loss(model: Any, batch: FlowBatch) -> None:
    projection = disturbed(build_projection(32, 6, 16))
    error, alignment = VelocityLoss(model, projection)(
        batch.latents, batch.sigma, batch.labels, batch.velocity, batch.features
    )
    outputs = row_calls(model, batch)
    wanted = batch.noise - batch.data
    assert float(error) == pytest.approx(mean_error([o.sample for o in outputs], wanted), rel=1e-4)
    found = torch.cat([projection(output.features) for output in outputs])
    cosine = cosine_similarity(found, batch.features, dim=-1).mean()
    assert float(alignment) == pytest.approx(-float(cosine), abs=1e-5)


@torch.no_grad()
def test_velocity_loss_without_an_encoder(model: Any, batch: FlowBatch) -> None:
    arguments = (batch.latents, batch.sigma, batch.labels, batch.velocity)
    error, alignment = VelocityLoss(model)(*arguments)
    assert float(alignment) == 0 and float(error) > 0


@torch.no_grad()
def test_approximation_loss(model: Any, batch: FlowBatch) -> None:
    found, held = ApproximationLoss(model)(*batch.both_ends)
    true = torch.cat([output.features for output in row_calls(model, batch)])
    condition = model.condition(batch.sigma, batch.labels)
    first = torch.cat([o.features for o in row_calls(model, batch, approximated=True)])
    near = first + batch.share[:, None, None] * model.residual(batch.latents, condition)
    assert float(batch.share.min()) >= 0 and float(batch.share.max()) <= 1
    assert float(found) == pytest.approx(float((near - true).square().mean()), rel=1e-4)
    assert float(held) == pytest.approx(float((first - true).square().mean()), rel=1e-4)


def led(teacher: Any, batch: FlowBatch) -> tuple[Tensor, Tensor]:
    """Where one guided step of the teacher leads each row, and its velocity there, row by row."""
    latents, velocities = [], []
    for row in range(ROWS):
        one = slice(row, row + 1)
        start, sigma, label = batch.start[one], batch.sigma[one], batch.labels[one]
        at_start = (1 - start) * batch.data[one] + start * batch.noise[one]
        segments = {} if teacher.config.get("num_segments") is None else {"segment": _at(start)}
        conditional, without = (
            teacher(at_start, start, given, **segments).sample
            for given in (label, torch.full_like(label, 5))
        )
        guided = without + batch.guidance_scale[row] * (conditional - without)
        latents.append(at_start + (sigma - start) * guided)
        velocities.append(teacher(latents[-1], sigma, label, **segments).sample)
    return torch.cat(latents), torch.cat(velocities)


def _at(start: Tensor) -> int:
    return BOUNDARIES.index(pytest.approx(float(start)))


@pytest.mark.parametrize("teaching", ["dense", "blockwise"])
@torch.no_grad()
def test_distillation_loss(
    teaching: str, model: Any, split: Any, dense: Any, batch: FlowBatch
) -> None:
    teacher, pupil = (dense, disturbed(split)) if teaching == "dense" else (model, disturbed(split))
    losses = DistillationLoss(pupil, teacher)(*batch.led_from_start)
    latents, wanted = led(teacher, batch)
    for loss, is_near in zip(losses, (True, False), strict=True):
        found = []
        for row in range(ROWS):
            one = slice(row, row + 1)
            start, sigma, label = batch.start[one], batch.sigma[one], batch.labels[one]
            kept: dict[str, Any] = {"segment": _at(start)}
            if is_near:
                at_start = (1 - start) * batch.data[one] + start * batch.noise[one]
                kept["features"] = pupil(at_start, start, label, **kept).features
                kept["residual_weight"] = batch.share[one]
            found.append(pupil(latents[one], sigma, label, **kept).sample)
        assert float(loss) == pytest.approx(mean_error(found, wanted), rel=1e-3)


@torch.no_grad()
def test_an_untrained_split_has_nothing_to_learn_from_true_features(
    split: Any, dense: Any, batch: FlowBatch
) -> None:
    approximated, exact = DistillationLoss(split, dense)(*batch.led_from_start)
    assert float(exact) < 1e-10 < float(approximated)


def test_gradients_of_stage_one_reach_everything_but_frn(model: Any, batch: FlowBatch) -> None:
    projection = disturbed(build_projection(32, 6, 16))
    loss = VelocityLoss(model, projection)
    arguments = (batch.latents, batch.sigma, batch.labels, batch.velocity, batch.features)
    sum(loss(*arguments)).backward()
    without = {name for name, value in loss.named_parameters() if value.grad is None}
    assert without == {f"transformer.frn.{name}" for name, _ in model.frn.named_parameters()}


def test_gradients_of_stage_two_reach_frn_alone(model: Any, batch: FlowBatch) -> None:
    model.requires_grad_(False)
    model.frn.requires_grad_(True)
    ApproximationLoss(model)(*batch.both_ends)[0].backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert reached == {f"frn.{name}" for name, _ in model.frn.named_parameters()}


def test_gradients_of_distillation_reach_every_stack_and_frn(
    split: Any, dense: Any, batch: FlowBatch
) -> None:
    split.requires_grad_(False)
    split.segments.requires_grad_(True)
    split.frn.requires_grad_(True)
    disturbed(split)
    sum(DistillationLoss(split, dense)(*batch.led_from_start)).backward()
    trained = {name for name, value in split.named_parameters() if value.requires_grad}
    assert trained == {name for name, value in split.named_parameters() if value.grad is not None}
    assert all(value.grad is None for value in dense.parameters())
