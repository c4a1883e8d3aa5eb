"""TTS-VAR: many candidates at coarse scales, sifted by clusters, then by rewards.

Source: "TTS-VAR: A Test-Time Scaling Framework for Visual Auto-Regressive Generation",
arXiv 2507.18537. Options that the defaults leave out (standardized rewards, other draws) are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gensift.config import option
from gensift.pipelines.loading import device_of
from samplers.autoregressive.clustering import Feature
from samplers.autoregressive.embeddings import load_embedding
from samplers.autoregressive.run import SearchRun
from samplers.autoregressive.schedule import (
    SearchSchedule,
    check_length,
    default_selections,
    default_widths,
)
from samplers.autoregressive.search import NextScaleSearchConfig
from samplers.autoregressive.selectors import ClusterSelector, Selector
from samplers.autoregressive.var_importance import ImportanceConfig, VARImportance


@dataclass(frozen=True, kw_only=True)
class TTSVARConfig(ImportanceConfig):
    """Options of TTS-VAR."""

    widths: tuple[int, ...] | None = option(
        None,
        help="candidates left after each scale, per finished one; default 8 at first, and 6, 4, 2, "
        "1 after the four selections",
    )
    cluster_scales: tuple[int, ...] | None = option(
        None,
        help="scales, counted from 0, after which clusters are formed; default: where the "
        "published ones lie among 13",
    )
    feature: Feature = option(
        "pca",
        choices=("pca", "shared-pca", "pool"),
        help="what clusters are formed by: where the first principal component of a picture's own "
        "tokens is strong, the same with one component for all pictures, or their mean token",
    )
    embedding: str = option(
        "auto",
        help="what makes the tokens: dinov2, shapes-clip, or a folder or hub id of a DINOv2; auto "
        "takes shapes-clip for zoo models",
    )


class TTSVAR(VARImportance):
    """Draws coarse scales with 8 N candidates and sifts them down to N."""

    name: ClassVar[str] = "tts-var"
    config_class: ClassVar[type[NextScaleSearchConfig]] = TTSVARConfig
    config: TTSVARConfig

    def schedule(self, num_scales: int) -> SearchSchedule:
        """The published schedule, moved to `num_scales`, or what the options say."""
        config = self.config
        clusters, resamples = config.cluster_scales, config.resample_scales
        if clusters is None or resamples is None:
            defaults = default_selections(num_scales)
            clusters = defaults[0] if clusters is None else clusters
            resamples = defaults[1] if resamples is None else resamples
        widths = config.widths
        if widths is None:
            widths = default_widths(num_scales, clusters + resamples)
        check_length(widths, num_scales)
        return SearchSchedule(widths, clusters, resamples)

    def prepare(self, pipeline: Any, schedule: SearchSchedule) -> None:
        """Load what pictures are compared by."""
        if self.embed is None and schedule.cluster_scales:
            device = str(device_of(pipeline))
            self.embed = load_embedding(self.config.embedding, pipeline, device)

    def selectors(self, run: SearchRun) -> Sequence[Selector]:
        """Rewards where they are asked; clusters before they are of use."""
        if run.scale not in run.schedule.cluster_scales or self.embed is None:
            return super().selectors(run)
        width = run.schedule.widths[run.scale]
        clusters = ClusterSelector(width, self.embed, self.config.feature)
        return (*super().selectors(run), clusters)
