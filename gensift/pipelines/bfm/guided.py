"""The velocity of a run: guidance, and features kept between its evaluations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gensift.pipelines.bfm.features import FeatureKeeper
from gensift.pipelines.bfm.schedule import ScheduleStep, SegmentSchedule
from gensift.pipelines.bfm.settings import SamplingSettings


class GuidedVelocity:
    """Calls the transformer with `[no class; class]` rows where a step is guided, else `[class]`.

    Attributes:
        evaluations: rows, guidance included, that went through trunk, FRN and stacks so far.
    """

    def __init__(
        self,
        transformer: Any,
        labels: Tensor,
        schedule: SegmentSchedule,
        settings: SamplingSettings,
    ) -> None:
        """`labels`: int64 `(rows,)`, on the device of the latents."""
        self._transformer = transformer
        self._labels = labels
        self._schedule = schedule
        self._settings = settings
        self.features = FeatureKeeper(settings, len(labels))
        self.evaluations = {"trunk": 0, "frn": 0, "stack": 0}

    def at_start(self, latents: Tensor, step: ScheduleStep) -> Tensor:
        """Velocity where a step starts, float32 `(rows, ...)`."""
        due = self.features.due(latents, step, self._settings.is_guided_at(step.sigma))
        velocity, features = self._evaluate(latents, step.sigma, step, due)
        if features is not None:
            self.features.keep(features, latents, step.sigma, due)
        return velocity

    def at_end(self, latents: Tensor, step: ScheduleStep) -> Tensor:
        """Velocity where a step ends, still by its own stack: the left limit at a boundary.

        `latents` and velocity: float32 `(rows, channels, height, width)`.
        """
        is_full = self._settings.feature_mode == "full"
        due = torch.full((len(self._labels),), is_full)
        return self._evaluate(latents, step.sigma_next, step, due)[0]

    def _evaluate(
        self, latents: Tensor, sigma: float, step: ScheduleStep, due: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        is_guided = self._settings.is_guided_at(step.sigma)
        labels = [torch.full_like(self._labels, self._transformer.null_label), self._labels]
        branches = 2 if is_guided else 1
        rows = branches * len(latents)
        width = self._schedule.width(step.segment)
        arguments = self.features.arguments(sigma, width, due, branches)
        output = self._transformer(
            hidden_states=torch.cat([latents] * branches),
            timestep=torch.full((rows,), sigma, device=latents.device),
            class_labels=torch.cat(labels[-branches:]),
            segment=step.segment,
            **arguments,
        )
        velocity, features = output.sample, getattr(output, "features", None)
        self.evaluations["stack"] += rows
        self.evaluations["frn"] += rows * ("residual_weight" in arguments)
        if features is not None:
            self.evaluations["trunk"] += branches * int(due.sum()) if arguments else rows
        if not is_guided:
            return velocity, features
        without, conditional = velocity.chunk(2)
        return without + self._settings.guidance_scale * (conditional - without), features
