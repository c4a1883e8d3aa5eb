"""Batches of class-conditional flow matching whose rows are spread over the segments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gensift.pipelines.bfm.schedule import spread_steps
from gensift.protocols import JsonObject

MOST_GUIDANCE = 3.0
"""Teachers are guided by scales from 1 to this one, drawn evenly: those that samplers use."""


@dataclass(frozen=True)
class FlowBatch:
    """Rows in the order of their segments, the noisiest first, as evenly many of each as can be.

    Attributes:
        data, noise: `(batch, channels, height, width)`.
        sigma: share of noise `(batch,)`, uniform inside the segment.
        start, end: the sigmas between which the segment lies `(batch,)`.
        labels: int64 `(batch,)`; the number of classes where the label is withheld.
        guidance_scale: of a teacher that leads from start to sigma `(batch,)`.
        features: of the clean picture `(batch, tokens, channels)`, by a frozen encoder; None where
            nothing is aligned with them.
    """

    data: Tensor
    noise: Tensor
    sigma: Tensor
    start: Tensor
    end: Tensor
    labels: Tensor
    guidance_scale: Tensor
    features: Tensor | None = None

    @property
    def velocity(self) -> Tensor:
        """Noise minus data."""
        return self.noise - self.data

    @property
    def share(self) -> Tensor:
        """How much of its segment lies behind each row, in [0, 1] `(batch,)`."""
        return (self.start - self.sigma) / (self.start - self.end)

    @property
    def latents(self) -> Tensor:
        """Data and noise mixed by `sigma`."""
        return self.latents_at(self.sigma)

    @property
    def first_latents(self) -> Tensor:
        """The same pairs where their segments start."""
        return self.latents_at(self.start)

    @property
    def both_ends(self) -> tuple[Tensor, ...]:
        """What losses take that compare each row with where its segment starts."""
        return (
            self.latents,
            self.sigma,
            self.first_latents,
            self.start,
            self.share,
            self.labels,
        )

    @property
    def led_from_start(self) -> tuple[Tensor, ...]:
        """What a loss takes whose teacher leads from the start of the segment to sigma."""
        return (
            self.first_latents,
            self.start,
            self.sigma,
            self.share,
            self.labels,
            self.guidance_scale,
        )

    def latents_at(self, sigma: Tensor) -> Tensor:
        """The pairs of data and noise, mixed by `sigma` `(batch,)`."""
        return self.data + sigma[:, None, None, None] * self.velocity

    def to(self, device: torch.device) -> FlowBatch:
        """The batch on another device."""
        moved: JsonObject = {
            name: None if value is None else value.to(device) for name, value in vars(self).items()
        }
        return FlowBatch(**moved)


def make_batch(
    data: Tensor,
    labels: Tensor,
    features: Tensor | None,
    boundaries: tuple[float, ...],
    *,
    null_label: int,
    label_dropout: float,
    generator: torch.Generator,
) -> FlowBatch:
    """Noise, times and withheld labels for rows of clean latents; drawn on the CPU.

    Args:
        data: float `(rows, channels, height, width)`.
        labels: int64 `(rows,)`.
        features: float `(rows, tokens, channels)` to align with; None for none.
        boundaries: noise levels between segments.
        null_label: the label of rows whose own is withheld.
        label_dropout: share of such rows.
        generator: of everything drawn.

    Source: Blockwise Flow Matching, arXiv 2510.21167, released code: where a batch cannot be shared
    out evenly, the first segments get a row more.
    """
    size = len(data)
    dropped = torch.rand(size, generator=generator) < label_dropout
    counts = torch.tensor(spread_steps(size, len(boundaries) - 1))
    start, end = (
        torch.tensor(edges).repeat_interleave(counts) for edges in (boundaries[:-1], boundaries[1:])
    )
    noise = torch.randn(data.shape, generator=generator)
    sigma = start + (end - start) * torch.rand(size, generator=generator)
    return FlowBatch(
        data=data,
        noise=noise,
        sigma=sigma,
        start=start,
        end=end,
        labels=labels.masked_fill(dropped, null_label),
        guidance_scale=1 + (MOST_GUIDANCE - 1) * torch.rand(size, generator=generator),
        features=features,
    )
