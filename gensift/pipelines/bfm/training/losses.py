"""What blockwise models are trained by.

Each loss is a module around a `BlockwiseTransformer`, so that one forward pass covers every segment
and every parameter that is trained gets a gradient at each step, also where processes share work.
Rows come in the order of segments, spread as `make_batch` spreads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss

from gensift.pipelines.bfm.schedule import spread_steps


class VelocityLoss(nn.Module):
    """Error of the velocity, and of the direction of the trunk's features.

    The gradient of both reaches the trunk. Without a projection there is no second part.

    Source: Blockwise Flow Matching, arXiv 2510.21167, stage 1.
    """

    def __init__(self, transformer: Any, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.transformer = transformer
        self.projection = projection

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        labels: Tensor,
        velocity: Tensor,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Squared error, and minus the mean cosine (0 without a projection).

        `latents` and `velocity` `(batch, channels, height, width)`; `sigma` and `labels`
        `(batch,)`; `wanted` are an encoder's features of the clean pictures, a vector per token.
        """
        model = self.transformer
        condition = model.condition(sigma, labels)
        features = model.trunk_features(latents, condition)
        error = mse_loss(velocity_by_segments(model, latents, condition, features), velocity)
        if self.projection is None or wanted is None:
            return error, torch.zeros_like(error)
        similarity = cosine_similarity(self.projection(features).float(), wanted, dim=-1)
        return error, -similarity.mean()


class ApproximationLoss(nn.Module):
    """Error of the trunk's features, approximated from those where the segment starts.

    Only FRN gets a gradient.

    Source: Blockwise Flow Matching, arXiv 2510.21167, stage 2.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        first_latents: Tensor,
        start: Tensor,
        share: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Squared error of the approximation, and that of features held as they were.

        `first_latents` are the same pairs of data and noise at `start`, where segments begin;
        `share` `(batch,)` is how much of the segment lies behind.
        """
        model = self.transformer
        with torch.no_grad():
            condition = model.condition(sigma, labels)
            wanted = model.trunk_features(latents, condition).float()
            held = model.trunk_features(first_latents, model.condition(start, labels)).float()
        found = held + share[:, None, None] * model.residual(latents, condition)
        return mse_loss(found, wanted), mse_loss(held, wanted)


class JointLoss(nn.Module):
    """Error of the velocity from approximated features and from true ones.

    FRN and the stacks learn together, so that stacks make up for what FRN does not know.

    Source: ours; the paper leaves stacks as stage 1 made them.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        first_latents: Tensor,
        start: Tensor,
        share: Tensor,
        labels: Tensor,
        velocity: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Squared errors of both; arguments as those of the losses above."""
        model = self.transformer
        with torch.no_grad():
            condition = model.condition(sigma, labels)
            true = model.trunk_features(latents, condition)
            held = model.trunk_features(first_latents, model.condition(start, labels))
        residual = share[:, None, None] * model.residual(latents, condition)
        near = (held + residual).to(true.dtype)
        approximated, exact = (
            mse_loss(velocity_by_segments(model, latents, condition, features), velocity)
            for features in (near, true)
        )
        return approximated, exact


class DistillationLoss(JointLoss):
    """The same against the velocity of a dense teacher, for a model that was split from it."""

    def __init__(self, transformer: Any, teacher: nn.Module) -> None:
        super().__init__(transformer)
        self.teacher = teacher

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        first_latents: Tensor,
        start: Tensor,
        share: Tensor,
        labels: Tensor,
        velocity: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Squared errors of both; the teacher gives the `velocity`."""
        with torch.no_grad():
            velocity = self.teacher(latents, sigma, labels).sample
        return super().forward(latents, sigma, first_latents, start, share, labels, velocity)


def velocity_by_segments(
    transformer: Any, latents: Tensor, condition: Tensor, features: Tensor
) -> Tensor:
    """Each segment's rows by its own stack: velocities in the order of the rows."""
    counts = spread_steps(len(latents), len(transformer.segments))
    parts = (torch.split(part, counts) for part in (latents, condition, features))
    return torch.cat(
        [
            transformer.velocity(*rows, segment)
            for segment, rows in enumerate(zip(*parts, strict=True))
        ]
    )


def build_projection(width: int, channels: int, inner: int) -> nn.Sequential:
    """What turns features of the trunk into those of the encoder; only training needs it."""
    return nn.Sequential(
        nn.Linear(width, inner),
        nn.SiLU(),
        nn.Linear(inner, inner),
        nn.SiLU(),
        nn.Linear(inner, channels),
    )
