"""Importance resampling: N candidates all the way, copied and dropped by rewards on the way.

Source: the importance sampling baseline of TTS-VAR, arXiv 2507.18537, section 4.3. Which scales the
paper resamples at it does not say; here they are those of TTS-VAR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from gensift.errors import ConfigError
from gensift.pipelines.next_scale.scales import Scale, ScaleSchedule
from samplers.autoregressive.config import ImportanceConfig as ImportanceConfig
from samplers.autoregressive.config import NextScaleSearchConfig
from samplers.autoregressive.decoding import reduced_scale
from samplers.autoregressive.schedule import SearchSchedule, default_selections
from samplers.autoregressive.search import NextScaleSearch
from samplers.autoregressive.selectors import RewardSelector
from samplers.autoregressive.view import Selector
from samplers.scoring import reward_parts

PUBLISHED_STRENGTHS = {"imagereward": 10.0}
"""What the paper multiplies rewards by; ImageReward's spread is about 1."""
STRENGTH = 2.0
"""Of rewards measured in units of their spread."""


class VARImportance(NextScaleSearch):
    """Resamples a population of N by rewards; the best finished one wins."""

    name: ClassVar[str] = "var-importance"
    config_class: ClassVar[type[NextScaleSearchConfig]] = ImportanceConfig
    is_reproducible: ClassVar[bool] = False
    config: ImportanceConfig

    def schedule(self, num_scales: int) -> SearchSchedule:
        """N candidates everywhere."""
        given = self.config.resample_scales
        scales = default_selections(num_scales)[1] if given is None else given
        return SearchSchedule((1,) * num_scales, resample_scales=scales)

    def scored_scales(self, schedule: SearchSchedule) -> tuple[int, ...]:
        """Where rewards choose, or everywhere."""
        if self.config.score_every_scale:
            return tuple(range(len(schedule.widths) - 1))
        return schedule.resample_scales

    def preview_grid(self, scales: ScaleSchedule) -> Scale | None:
        """The grid that candidates on the way are decoded at; None for the full one."""
        return reduced_scale(scales.scales[-1], self.config.decode_side)

    def check(self, schedule: SearchSchedule) -> None:
        """Refuse what cannot be searched, before anything is drawn.

        Raises:
            ConfigError: rewards are to decide and there is none, or `strengths` names another.
        """
        super().check(schedule)
        check_strengths(self.config.strengths, tuple(reward_parts(self.reward)))

    def selectors(self, scale: int, schedule: SearchSchedule) -> Sequence[Selector]:
        """The rewards, where they are asked."""
        if self.reward is None or scale not in self.scored_scales(schedule):
            return ()
        is_choice = scale in schedule.resample_scales
        return (self._reward_selector(schedule.widths[scale] if is_choice else None),)

    def _reward_selector(self, width: int | None) -> RewardSelector:
        config = self.config
        names = tuple(reward_parts(self.reward))
        published = PUBLISHED_STRENGTHS.get(names[0]) if len(names) == 1 else None
        standardize = published is None if config.standardize is None else config.standardize
        default = STRENGTH if standardize or published is None else published
        return RewardSelector(
            width,
            config.potential,
            config.draw,
            config.ess_threshold,
            default if config.strength is None else config.strength,
            config.strengths,
            standardize,
        )


def check_strengths(strengths: Mapping[str, float], names: Sequence[str]) -> None:
    """Refuse strengths of rewards that there are not.

    Raises:
        ConfigError: naming the rewards that there are.
    """
    unknown = sorted(set(strengths) - set(names))
    if unknown:
        raise ConfigError(
            f"`strengths` names the reward {unknown[0]!r}; this search is scored by "
            f"{', '.join(names)}."
        )
