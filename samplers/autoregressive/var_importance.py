"""Importance resampling: N candidates all the way, copied and dropped by rewards on the way.

Source: the importance sampling baseline of TTS-VAR, arXiv 2507.18537, section 4.3. Which scales the
paper resamples at is not told; here they are those of TTS-VAR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gensift.config import option
from gensift.errors import ConfigError
from gensift.pipelines.next_scale.scales import ScaleSchedule
from samplers.autoregressive.decoding import reduced_scale
from samplers.autoregressive.parents import Draw
from samplers.autoregressive.potentials import Potential
from samplers.autoregressive.run import SearchRun
from samplers.autoregressive.schedule import SearchSchedule, default_selections
from samplers.autoregressive.search import NextScaleSearch, NextScaleSearchConfig
from samplers.autoregressive.selectors import RewardSelector, Selector
from samplers.scoring import reward_parts

PUBLISHED_STRENGTHS = {"imagereward": 10.0}
"""What the paper multiplies rewards by; ImageReward's spread is about 1."""
STRENGTH = 2.0
"""Of rewards measured in units of their spread."""


@dataclass(frozen=True, kw_only=True)
class ImportanceConfig(NextScaleSearchConfig):
    """Options of the searches that resample by rewards."""

    resample_scales: tuple[int, ...] | None = option(
        None,
        help="scales, counted from 0, after which rewards choose; default: where the published "
        "ones lie among 13",
    )
    potential: Potential = option(
        "value",
        choices=("value", "max", "sum", "diff"),
        help="what a candidate is weighed by: its newest reward, the highest or the sum of those "
        "so far, or how much the newest is above the one before",
    )
    strength: float | None = option(
        None,
        minimum=0,
        help="what rewards are multiplied by before they are exponents; default 10 for "
        "imagereward, as published, else 2 in units of their spread",
    )
    strengths: dict[str, float] = option(
        {}, help="the same per reward, whose weighted sum then decides"
    )
    standardize: bool | None = option(
        None,
        help="measure rewards in units of their spread among the candidates; default yes, but not "
        "for imagereward",
    )
    draw: Draw = option(
        "multinomial",
        choices=(
            *("multinomial", "systematic", "top-k"),
            *("without-replacement", "beam", "adaptive"),
        ),
        help="how parents are drawn by weight; adaptive is systematic where weights are uneven and "
        "without replacement elsewhere",
    )
    ess_threshold: float = option(
        0.5,
        minimum=0,
        maximum=1,
        help="adaptive: weights are uneven where their effective size is below this share",
    )
    score_every_scale: bool = option(
        False, help="judge after every scale, so that potentials know the whole history"
    )
    decode_side: int | None = option(
        None,
        minimum=1,
        help="longer side, in tokens, that half-drawn candidates are decoded at; default the full "
        "one",
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.strengths and self.strength is not None:
            yield "`strength` and `strengths` are both given; give one"


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

    def judged_scales(self, schedule: SearchSchedule) -> tuple[int, ...]:
        """Where rewards choose, or everywhere."""
        if self.config.score_every_scale:
            return tuple(range(len(schedule.widths) - 1))
        return schedule.resample_scales

    def reduced_scale(self, scales: ScaleSchedule) -> tuple[int, int] | None:
        """The grid that half-drawn candidates are decoded at; None for the full one."""
        return reduced_scale(scales.scales[-1], self.config.decode_side)

    def check(self, schedule: SearchSchedule) -> None:
        """Refuse what cannot be searched, before anything is drawn.

        Raises:
            ConfigError: rewards are to decide and there is none, or `strengths` names another.
        """
        super().check(schedule)
        check_strengths(self.config.strengths, tuple(reward_parts(self.reward)))

    def selectors(self, run: SearchRun) -> Sequence[Selector]:
        """The rewards, where they are asked."""
        if self.reward is None or run.scale not in self.judged_scales(run.schedule):
            return ()
        is_choice = run.scale in run.schedule.resample_scales
        return (self._reward_selector(run.schedule.widths[run.scale] if is_choice else None),)

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
    """Refuse strengths of rewards that do not judge.

    Raises:
        ConfigError: naming the rewards that do.
    """
    unknown = sorted(set(strengths) - set(names))
    if unknown:
        raise ConfigError(
            f"`strengths` names the reward {unknown[0]!r}; this search is judged by "
            f"{', '.join(names)}."
        )
