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


class DistillationLoss(nn.Module):
    """Error against a teacher's velocity at points that sampling comes by.

    FRN and the stacks learn together, from approximated features, so that stacks make up for what
    FRN does not know, and from true ones. The points lie where one step of the teacher leads from
    the start of the segment. On the straight line of a pair of data and noise they would not do:
    two points of it betray the data, which is nothing that a sampler can know.

    The teacher is the dense model that a blockwise one was split from, or a frozen copy of the
    blockwise model, which then keeps its own velocities.

    Source: ours; the paper leaves stacks as stage 1 made them.
    """

    def __init__(self, transformer: Any, teacher: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.teacher = teacher

    def forward(
        self,
        first_latents: Tensor,
        start: Tensor,
        sigma: Tensor,
        share: Tensor,
        labels: Tensor,
        guidance_scale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Squared errors from approximated and from true features.

        `first_latents` are at `start`, where segments begin; `guidance_scale` `(batch,)` is that of
        the teacher's step to `sigma`; the rest as in `ApproximationLoss`.
        """
        model = self.transformer
        with torch.no_grad():
            latents = self._after_a_step(first_latents, start, sigma, labels, guidance_scale)
            wanted = true_velocity(self.teacher, latents, sigma, labels)
            condition = model.condition(sigma, labels)
            true = model.trunk_features(latents, condition)
            held = model.trunk_features(first_latents, model.condition(start, labels))
        residual = share[:, None, None] * model.residual(latents, condition)
        near = (held + residual).to(true.dtype)
        approximated, exact = (
            mse_loss(velocity_by_segments(model, latents, condition, features), wanted)
            for features in (near, true)
        )
        return approximated, exact

    def _after_a_step(
        self,
        first_latents: Tensor,
        start: Tensor,
        sigma: Tensor,
        labels: Tensor,
        guidance_scale: Tensor,
    ) -> Tensor:
        nobody = torch.full_like(labels, self.transformer.null_label)
        without = true_velocity(self.teacher, first_latents, start, nobody)
        conditional = true_velocity(self.teacher, first_latents, start, labels)
        velocity = without + _per_row(guidance_scale) * (conditional - without)
        return first_latents + _per_row(sigma - start) * velocity


def true_velocity(model: Any, latents: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """Velocity of a dense model, or of a blockwise one whose trunk runs, rows as batches have them.

    All are `(batch, ...)`.
    """
    if not hasattr(model, "segments"):
        result: Tensor = model(latents, sigma, labels).sample
        return result
    condition = model.condition(sigma, labels)
    features = model.trunk_features(latents, condition)
    return velocity_by_segments(model, latents, condition, features)


def _per_row(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def velocity_by_segments(
    transformer: Any, latents: Tensor, condition: Tensor, features: Tensor
) -> Tensor:
    """Each segment's rows by its own stack: velocities in the order of the rows.

    `latents` and result: float `(rows, channels, height, width)`; `condition` `(rows, width)`,
    `features` `(rows, tokens, width)`.
    """
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
