"""Stages of a training: what is trained, by which loss, for how long."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from apps.training.bfm.batches import FlowBatch
from apps.training.bfm.initial import initialise
from apps.training.bfm.losses import (
    ApproximationLoss,
    DistillationLoss,
    VelocityLoss,
    build_projection,
)
from apps.training.bfm.options import BFMTraining
from apps.training.bfm.start import Start


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage.

    Attributes:
        name: in reports and checkpoints.
        steps: of the optimiser.
        batch_size: pictures per step, over all processes.
        trained: modules that are trained and averaged; everything else is frozen.
        loss: module that returns two scalars.
        arguments: what it is called with.
        figures: names of the two; one name where the second says nothing.
        weights: of the two in what is minimised.
    """

    name: str
    steps: int
    batch_size: int
    trained: Mapping[str, nn.Module]
    loss: nn.Module
    arguments: Callable[[FlowBatch], tuple[Tensor | None, ...]]
    figures: tuple[str, ...]
    weights: tuple[float, float]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [p for module in self.trained.values() for p in module.parameters()]


def build_stages(start: Start, config: BFMTraining, feature_channels: int | None) -> list[Stage]:
    """The stages that `config` asks for, in order; those without steps are left out.

    Args:
        start: the model, and its teacher.
        config: how.
        feature_channels: of the encoder that the trunk is aligned with; None for no alignment.
    """
    if start.teacher is not None:
        return [_approximation(start, config), _distillation(start, config)]
    stages = []
    if config.steps:
        stages.append(_flow(start.transformer, config, feature_channels))
    if config.trains_approximation and config.frn_steps:
        stages.append(_approximation(start, config))
    if config.trains_approximation and config.joint_steps:
        stages.append(_joint(start, config))
    return stages


def _flow(transformer: Any, config: BFMTraining, feature_channels: int | None) -> Stage:
    names = ("shared", "trunk", "segments")
    trained: dict[str, nn.Module] = {name: getattr(transformer, name) for name in names}
    projection = None
    if feature_channels is not None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            projection = build_projection(
                transformer.config.hidden_size, feature_channels, config.projection_width
            )
            initialise(projection)
        trained["projection"] = projection
    return Stage(
        name="flow",
        steps=config.steps,
        batch_size=config.batch_size,
        trained=trained,
        loss=VelocityLoss(transformer, projection),
        arguments=lambda b: (b.latents, b.sigma, b.labels, b.velocity, b.features),
        figures=("flow", "alignment") if projection is not None else ("flow",),
        weights=(1.0, config.alignment_weight),
    )


def _approximation(start: Start, config: BFMTraining) -> Stage:
    return Stage(
        name="frn",
        steps=config.frn_steps,
        batch_size=config.frn_batch_size,
        trained={"frn": start.transformer.frn},
        loss=ApproximationLoss(start.transformer),
        arguments=lambda batch: batch.both_ends,
        figures=("approximated", "held"),
        # The second is what features held as they were would give: it is there to compare with.
        weights=(1.0, 0.0),
    )


def _joint(start: Start, config: BFMTraining) -> Stage:
    return _stacks_and_frn(
        start,
        config,
        name="joint",
        steps=config.joint_steps,
        # As it was given: checkpoints are read later.
        teacher=copy.deepcopy(start.transformer),
    )


def _distillation(start: Start, config: BFMTraining) -> Stage:
    return _stacks_and_frn(
        start,
        config,
        name="distillation",
        steps=config.steps,
        teacher=start.teacher,
    )


def _stacks_and_frn(start: Start, config: BFMTraining, teacher: Any, **own: Any) -> Stage:
    transformer = start.transformer
    return Stage(
        loss=DistillationLoss(transformer, teacher),
        arguments=lambda batch: batch.led_from_start,
        batch_size=config.batch_size,
        trained={"segments": transformer.segments, "frn": transformer.frn},
        figures=("approximated", "exact"),
        weights=(1.0, 1.0),
        **own,
    )
