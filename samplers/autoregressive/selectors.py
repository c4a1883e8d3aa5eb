"""Choosing who goes on after a scale: by how candidates differ, or by what rewards say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from samplers.autoregressive.clustering import Feature, choose_by_cluster, features
from samplers.autoregressive.embeddings import Embedding
from samplers.autoregressive.parents import Draw, draw_parents
from samplers.autoregressive.potentials import Potential, log_weights, standardized

if TYPE_CHECKING:
    from samplers.autoregressive.run import Scored, SearchRun


class Selector(Protocol):
    """Looks at the candidates after a scale, and may drop or copy some."""

    def select(self, run: SearchRun) -> None:
        """Work on all prompts of `run`."""
        ...


@dataclass(frozen=True)
class ClusterSelector:
    """Keeps one candidate of each cluster of like pictures; needs no reward.

    Attributes:
        width: that is left, per finished candidate.
        embedding: what pictures are alike by.
        feature: how its tokens become points.
    """

    width: int
    embedding: Embedding
    feature: Feature

    def select(self, run: SearchRun) -> None:
        """Cluster the candidates of each prompt."""
        from samplers.autoregressive.run import Scored

        pictures = run.decode()
        with run.stopwatch.part("embed"):
            tokens = self.embedding(pictures)
        chosen, closeness = [], []
        with run.stopwatch.part("cluster"):
            for index, population in enumerate(run.populations):
                points = features(tokens[run.rows_of(index)], self.feature)
                generator = population.generator(f"clusters after scale {run.scale}")
                choice = choose_by_cluster(points, population.size_at(self.width), generator)
                chosen.append(choice.chosen)
                closeness.append(torch.tensor(choice.closeness))
        run.keep(
            chosen,
            [
                Scored({"closeness": values}, values, run.thumbnails(pictures[run.rows_of(index)]))
                for index, values in enumerate(closeness)
            ],
        )


@dataclass(frozen=True)
class RewardSelector:
    """Judges candidates, and draws those that go on by what was said of them and their ancestors.

    Attributes:
        width: that is left, per finished candidate; None judges only.
        potential, draw, ess_threshold: see `log_weights` and `draw_parents`.
        strength: what the combined reward is multiplied by.
        strengths: per reward, instead: the sum of all, each multiplied by its own.
        standardize: measure the combined reward in units of its spread among the candidates.
    """

    width: int | None
    potential: Potential
    draw: Draw
    ess_threshold: float
    strength: float
    strengths: Mapping[str, float] = field(default_factory=dict)
    standardize: bool = True

    def select(self, run: SearchRun) -> None:
        """Judge the candidates of each prompt, and choose among them."""
        scored = run.score()
        for population, scoring in zip(run.populations, scored, strict=True):
            population.history.append(self.energies(scoring))
        if self.width is None:
            return
        chosen = []
        for population in run.populations:
            chosen.append(
                draw_parents(
                    self.draw,
                    log_weights(self.potential, population.history),
                    population.size_at(self.width),
                    population.generator(f"parents after scale {run.scale}"),
                    ess_threshold=self.ess_threshold,
                )
            )
        run.keep(chosen, scored)

    def energies(self, scoring: Scored) -> Tensor:
        """Rewards times strength, float64 `(candidates,)`."""
        if self.strengths:
            parts = [
                strength * scoring.scores[name].double()
                for name, strength in self.strengths.items()
            ]
            total = torch.stack(parts).sum(0)
            return torch.where(torch.isfinite(total), total, -torch.inf)
        values = standardized(scoring.combined) if self.standardize else scoring.combined.double()
        return self.strength * values
