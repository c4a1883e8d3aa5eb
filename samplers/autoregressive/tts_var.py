"""TTS-VAR: many candidates at coarse scales, sifted by clusters, then by rewards.

Source: "TTS-VAR: A Test-Time Scaling Framework for Visual Auto-Regressive Generation",
arXiv 2507.18537. Options that the defaults leave out (standardized rewards, other draws) are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from gensift.pipelines.loading import device_of
from gensift.protocols import Pipeline
from samplers.autoregressive.config import NextScaleSearchConfig
from samplers.autoregressive.config import TTSVARConfig as TTSVARConfig
from samplers.autoregressive.embeddings import load_embedding
from samplers.autoregressive.schedule import (
    SearchSchedule,
    check_length,
    default_selections,
    default_widths,
)
from samplers.autoregressive.selectors import ClusterSelector
from samplers.autoregressive.var_importance import VARImportance
from samplers.autoregressive.view import Selector


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

    def prepare(self, pipeline: Pipeline, schedule: SearchSchedule) -> None:
        """Load what pictures are compared by."""
        if self.embed is None and schedule.cluster_scales:
            device = str(device_of(pipeline))
            self.embed = load_embedding(self.config.embedding, pipeline, device)

    def selectors(self, scale: int, schedule: SearchSchedule) -> Sequence[Selector]:
        """Rewards where they are asked; clusters before they are of use."""
        found = super().selectors(scale, schedule)
        if scale not in schedule.cluster_scales or self.embed is None:
            return found
        return (*found, ClusterSelector(schedule.widths[scale], self.embed, self.config.feature))
