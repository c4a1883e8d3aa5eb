"""Which trunk features each row goes on with inside a segment.

Every row has features of its own age: a row's picture does not depend on when its neighbours were
refreshed, nor on which of them were dropped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gensift.pipelines.bfm.schedule import ScheduleStep
from gensift.pipelines.bfm.settings import SamplingSettings

MOVED = 1e-3
"""A row that is off by this share of its largest value was not put there by its own step."""


class FeatureKeeper:
    """Features of a run, those with and without a class apart.

    Guidance that is switched on in mid-segment finds rows that have no features without a class,
    and those are computed anew; features with a class are never used in place of them.
    """

    def __init__(self, settings: SamplingSettings, rows: int) -> None:
        self._settings = settings
        self._conditional: Tensor | None = None
        self._unconditional: Tensor | None = None
        self._start: Tensor | None = None
        self._sigma = torch.zeros(rows, dtype=torch.float64)
        self._age = torch.zeros(rows, dtype=torch.int64)
        self._is_lost = torch.zeros(rows, dtype=torch.bool)
        self._has_unconditional = torch.zeros(rows, dtype=torch.bool)

    def forget(self) -> None:
        """Have all features computed at the next step."""
        self._conditional = self._unconditional = self._start = None

    def lose_moved(self, expected: Tensor, latents: Tensor) -> None:
        """Have features of rows computed anew that somebody moved after their step.

        Searches copy rows over others: features must not stay behind. Both tensors are
        `(rows, ...)`: where the step leads, and what there is now.
        """
        if len(expected) != len(latents):
            self.forget()
            return
        off = (latents - expected).flatten(1).abs().amax(1)
        self._is_lost = (off > MOVED * expected.flatten(1).abs().amax(1)).cpu()

    def due(self, latents: Tensor, step: ScheduleStep, is_guided: bool) -> Tensor:
        """Which rows need the trunk at the start of a step: bool `(rows,)`, on the CPU."""
        settings = self._settings
        if settings.feature_mode == "full" or step.is_first or self._conditional is None:
            return torch.ones_like(self._is_lost)
        # Where the loop went back up, features are of a later time.
        due = self._is_lost | (self._sigma < step.sigma)
        if is_guided:
            due |= ~self._has_unconditional
        if settings.refresh_every is not None:
            due |= self._age >= settings.refresh_every
        if settings.refresh_threshold is not None and self._start is not None:
            change = _norms(latents - self._start)
            due |= (change > settings.refresh_threshold * _norms(self._start)).cpu()
        return due

    def arguments(
        self, sigma: float, segment_width: float, due: Tensor, branches: int
    ) -> dict[str, Any]:
        """What the model is called with so that rows that are `due` alone run the trunk.

        `due` is bool `(rows,)`; each row stands for `branches` rows of the model's batch.
        """
        if bool(due.all()) or self._conditional is None:
            return {}
        parts = [self._unconditional, self._conditional] if branches == 2 else [self._conditional]
        arguments: dict[str, Any] = {"features": torch.cat([p for p in parts if p is not None])}
        device = self._conditional.device
        if bool(due.any()):
            arguments["refresh"] = due.to(device).repeat(branches)
        if self._settings.feature_mode == "frn":
            weight = ((self._sigma - sigma) / segment_width).masked_fill(due, 0).float()
            arguments["residual_weight"] = weight.to(device).repeat(branches)
        return arguments

    def keep(self, features: Tensor, latents: Tensor, sigma: float, due: Tensor) -> None:
        """Take over what the model returned at the start of a step.

        `features` float `(branches * rows, tokens, width)`, `latents` `(rows, channels, height,
        width)`; `due`, bool `(rows,)`, says whose features are new.
        """
        if self._settings.feature_mode == "full":
            return
        if len(features) == 2 * len(due):
            self._unconditional, self._conditional = features.chunk(2)
            self._has_unconditional = torch.ones_like(due)
        else:
            self._conditional = features
            self._has_unconditional &= ~due
        self._sigma = self._sigma.masked_fill(due, sigma)
        self._age = self._age.masked_fill(due, 0) + 1
        self._is_lost = torch.zeros_like(due)
        if self._settings.refresh_threshold is not None:
            self._start = latents if self._start is None else _mixed(self._start, latents, due)


def _norms(latents: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(latents.flatten(1), dim=1)
    return norms


def _mixed(old: Tensor, new: Tensor, is_new: Tensor) -> Tensor:
    chosen = is_new.to(old.device).view(-1, *[1] * (old.ndim - 1))
    return torch.where(chosen, new, old)
