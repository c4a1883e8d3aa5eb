"""Choosing who goes on after a scale: by how candidates differ, or by what rewards say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from samplers.autoregressive.clustering import choose_by_cluster, features
from samplers.autoregressive.config import Draw, Feature, Potential
from samplers.autoregressive.embeddings import Embedding
from samplers.autoregressive.parents import draw_parents
from samplers.autoregressive.potentials import log_weights, standardized
from samplers.autoregressive.stage_scoring import CandidateScores
from samplers.autoregressive.view import ScaleView, Selection


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

    def select(self, view: ScaleView) -> Selection:
        """One candidate for each cluster, of each prompt."""
        pictures = view.pictures()
        with view.stopwatch.part("embed"):
            tokens = self.embedding(pictures)
        chosen, closeness = [], []
        with view.stopwatch.part("cluster"):
            for index, population in enumerate(view.populations):
                points = features(tokens[view.rows_of(index)], self.feature)
                generator = population.generator(f"clusters after scale {view.scale}")
                choice = choose_by_cluster(points, population.size_at(self.width), generator)
                chosen.append(choice.chosen)
                closeness.append(torch.tensor(choice.closeness))
        return Selection(
            chosen,
            [
                CandidateScores(
                    {"closeness": values}, view.thumbnails(pictures[view.rows_of(index)]), values
                )
                for index, values in enumerate(closeness)
            ],
        )


@dataclass(frozen=True)
class RewardSelector:
    """Draws those that go on by what rewards say of them and of their ancestors.

    Attributes:
        width: that is left, per finished candidate; None scores only.
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

    def select(self, view: ScaleView) -> Selection | None:
        """Score the candidates of each prompt, and draw parents among them."""
        scores = view.scores()
        for population, own in zip(view.populations, scores, strict=True):
            population.history.append(self.energies(own))
        if self.width is None:
            return None
        chosen = [
            draw_parents(
                self.draw,
                log_weights(self.potential, population.history),
                population.size_at(self.width),
                population.generator(f"parents after scale {view.scale}"),
                ess_threshold=self.ess_threshold,
            )
            for population in view.populations
        ]
        return Selection(chosen, scores)

    def energies(self, scores: CandidateScores) -> Tensor:
        """Rewards times strength, float64 `(candidates,)`."""
        if self.strengths:
            parts = [
                strength * scores.by_reward[name].double()
                for name, strength in self.strengths.items()
            ]
            total = torch.stack(parts).sum(0)
            return torch.where(torch.isfinite(total), total, -torch.inf)
        values = standardized(scores.combined) if self.standardize else scores.combined.double()
        return self.strength * values
