"""Finding a pruning schedule that beats best-of-N at the same budget, or saying that none does.

A schedule that looks best on the prompts it was chosen on owes part of that to chance. So what is
promised is never measured there: prompts are split into folds, each fold is measured with a
schedule chosen without it, and only a gain that shows on those is believed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gensift.errors import ConfigError
from samplers.diffusion.schedule import UnitCosts, largest_search, plan_stages, search_cost
from samplers.tuning.arrays import Floats
from samplers.tuning.candidates import Grid, Schedule
from samplers.tuning.config import TuneConfig as TuneConfig
from samplers.tuning.omega import Omega
from samplers.tuning.pool import best_of_n_curve, equivalent_count
from samplers.tuning.recommendation import Gain, standard_error
from samplers.tuning.recommendation import Recommendation as Recommendation
from samplers.tuning.recordings import ScoreTensors
from samplers.tuning.simulation import Draws

Prompts = NDArray[np.int64]

_CHOOSING_ROWS = 3200  # prompts x draws while choosing: the prompts differ more than the draws
_HELD_OUT_ROWS = 12800  # for the few schedules that were chosen
_STARTS = 2  # schedules of each length that are improved step by step
_MOST_MOVES = 12
_OMEGA_SHARES = tuple(round(0.1 * step, 1) for step in range(2, 21))


def tune(scores: ScoreTensors, unit_costs: UnitCosts, config: TuneConfig) -> Recommendation:
    """Recommend a schedule, or none.

    Raises:
        ConfigError: fewer than two prompts, impossible unit costs, a budget below one candidate, or
            best-of-N at this budget needs more images than were recorded.
    """
    if unit_costs.step <= 0 or min(unit_costs.scoring, unit_costs.early_scoring) < 0:
        raise ConfigError(
            f"the unit costs are {unit_costs.step:g} per step, {unit_costs.early_scoring:g} per "
            f"early and {unit_costs.scoring:g} per final scoring; a step must cost more than 0, a "
            "scoring 0 or more."
        )
    if scores.num_prompts < 2:
        raise ConfigError(
            f"there are scores of {scores.num_prompts} prompt; a schedule is tuned on some prompts "
            "and checked on others, so give at least 2, better 50."
        )
    return _Tuner(scores, unit_costs, config).recommend()


class _Tuner:
    """Gains of schedules at one budget, each simulated once."""

    def __init__(self, scores: ScoreTensors, unit_costs: UnitCosts, config: TuneConfig) -> None:
        self.scores, self.unit_costs, self.config = scores, unit_costs, config
        self.grid = Grid(scores.num_steps, config.max_checkpoints)
        self.best_of_n = self.affordable((), config.budget)
        if self.best_of_n > scores.num_images:
            largest = self.cost((), scores.num_images)
            raise ConfigError(
                f"budget {config.budget:g} pays for best-of-{self.best_of_n}, but there are "
                f"{scores.num_images} images per prompt; record more, or lower the budget to "
                f"{largest:g} or less."
            )
        # A candidate costs a step and a look at least, and omega goes to twice the budget.
        dearest = int(2 * config.budget / (unit_costs.step + unit_costs.early_scoring))
        self.most = min(scores.num_images, max(dearest, self.best_of_n))
        self.draws = self._draws(_CHOOSING_ROWS, 0)
        self.held_out_draws = self._draws(_HELD_OUT_ROWS, 1)
        self.curve = self._best_of_n_curve()
        self._gains: dict[Schedule, Floats | None] = {}

    def recommend(self) -> Recommendation:
        """Choose without each fold, measure on it, then choose on all prompts."""
        folds = self._folds()
        everyone = np.arange(self.scores.num_prompts)
        chosen = tuple(self.choose(np.setdiff1d(everyone, fold)) for fold in folds)
        final = self.choose(everyone)
        held_out = self._held_out(folds, chosen, self.config.budget)
        gain = Gain.of(held_out, self.config.confidence) if any(chosen) else None
        reason, is_believed = self._reason(final, gain)
        if not is_believed:
            final = ()
        count = self.affordable(final, self.config.budget)
        base = float(self.curve[:, self.best_of_n - 1].mean())
        won = gain.mean if gain is not None and is_believed else 0.0
        return Recommendation(
            checkpoints=final,
            reason=reason,
            num_candidates=count,
            cost=self.cost(final, count),
            best_of_n=self.best_of_n,
            best_of_n_reward=base,
            gain=gain,
            equivalent=equivalent_count(np.maximum.accumulate(self.curve.mean(axis=0)), base + won),
            omega=self._omega(folds, chosen) if final else None,
            chosen=chosen,
            skipped=sum(gains is None for gains in self._gains.values()),
        )

    def choose(self, prompts: Prompts) -> Schedule:
        """The schedule for these prompts, looking at no others; empty for none.

        Of all that lie within one standard error of the best, paired by prompt, the fewest
        checkpoints win: a further checkpoint must earn its place. No checkpoint at all is among
        them.
        """
        seen: dict[Schedule, Floats] = {(): np.zeros(len(prompts))}
        self._look(seen, list(self.grid.coarse()), prompts)
        for count in range(1, self.config.max_checkpoints + 1):
            fitting = [schedule for schedule in seen if len(schedule) == count]
            fitting.sort(key=lambda schedule: -seen[schedule].mean())
            for start in fitting[:_STARTS]:
                self._improve(seen, start, prompts)
        best = max(seen, key=lambda schedule: seen[schedule].mean())
        for count in range(len(best)):
            fewer = [schedule for schedule in seen if len(schedule) == count]
            simpler = max(fewer, key=lambda schedule: seen[schedule].mean(), default=best)
            lead = seen[best] - seen[simpler]
            if lead.mean() <= standard_error(lead):
                return simpler
        return best

    def affordable(self, schedule: Schedule, budget: float) -> int:
        """Candidates that a budget pays for, exactly."""
        return largest_search(schedule, self.scores.num_steps, 1, self.unit_costs, budget)

    def cost(self, schedule: Schedule, num_candidates: int) -> float:
        """Exact cost of a search."""
        stages = plan_stages(schedule, self.scores.num_steps, num_candidates, 1)
        return search_cost(stages, self.unit_costs)

    def _improve(self, seen: dict[Schedule, Floats], start: Schedule, prompts: Prompts) -> None:
        current = start
        for _ in range(_MOST_MOVES):
            around = list(self.grid.neighbours(current))
            self._look(seen, around, prompts)
            known = [schedule for schedule in (current, *around) if schedule in seen]
            best = max(known, key=lambda schedule: seen[schedule].mean())
            if best == current:
                return
            current = best

    def _look(
        self, seen: dict[Schedule, Floats], schedules: Sequence[Schedule], prompts: Prompts
    ) -> None:
        for schedule in schedules:
            if schedule not in self._gains:
                self._gains[schedule] = self._simulate(schedule)
            gains = self._gains[schedule]
            if gains is not None and len(gains):
                seen[schedule] = gains[prompts]

    def _simulate(self, schedule: Schedule) -> Floats | None:
        """Gain per prompt; empty where it cannot be positive, None where the pool is too small."""
        # Without more candidates than best-of-N, pruning can only lose.
        if self.cost(schedule, self.best_of_n + 1) > self.config.budget:
            return np.empty(0)
        count = self.affordable(schedule, self.config.budget)
        if count > self.scores.num_images:
            return None
        return self.draws.rewards(schedule, count) - self.curve[:, self.best_of_n - 1]

    def _held_out(
        self, folds: Sequence[Prompts], chosen: Sequence[Schedule], budget: float
    ) -> Floats:
        """Gain per prompt of the schedule chosen without it, at any budget."""
        gains = np.zeros(self.scores.num_prompts)
        base = self.curve[:, self.affordable((), budget) - 1]
        for schedule in {schedule for schedule in chosen if schedule}:
            count = self.affordable(schedule, budget)
            every = self.held_out_draws.rewards(schedule, count) - base
            for fold, found in zip(folds, chosen, strict=True):
                if found == schedule:
                    gains[fold] = every[fold]
        return gains

    def _omega(self, folds: Sequence[Prompts], chosen: Sequence[Schedule]) -> Omega | None:
        """Over budgets of 0.2, 0.3, ... 2.0 times the one given, as far as the pool reaches."""
        budgets, tuned, plain = [], [], []
        for share in _OMEGA_SHARES:
            budget = round(share * self.config.budget, 9)
            if any(budget < self.cost(schedule, 1) for schedule in ((), *chosen)):
                continue
            counts = [self.affordable(schedule, budget) for schedule in ((), *chosen)]
            if max(counts) > self.most:
                break
            base = float(self.curve[:, counts[0] - 1].mean())
            budgets.append(budget)
            plain.append(base)
            tuned.append(base + float(self._held_out(folds, chosen, budget).mean()))
        if len(budgets) < 3 or plain[-1] <= plain[0]:
            return None
        return Omega.of(budgets, tuned, plain)

    def _reason(self, final: Schedule, gain: Gain | None) -> tuple[str, bool]:
        if gain is None or not final:
            return "no schedule beat best-of-N by more than chance where it was chosen", False
        share = f"{100 * self.config.confidence:g} %"
        interval = f"{gain.mean:+.4g} ({share} {gain.low:+.4g} to {gain.high:+.4g})"
        if gain.low <= 0:
            return f"on held-out prompts the gain of {interval} may be none", False
        return f"on held-out prompts the gain is {interval}", True

    def _folds(self) -> list[Prompts]:
        count = min(self.config.folds, self.scores.num_prompts)
        order = np.random.default_rng([self.config.seed, 2]).permutation(self.scores.num_prompts)
        return list(np.array_split(order, count))

    def _draws(self, rows: int, stream: int) -> Draws:
        per_prompt = max(4, rows // self.scores.num_prompts)
        return Draws(self.scores, per_prompt, (self.config.seed, stream), self.most)

    def _best_of_n_curve(self) -> Floats:
        """Reward per prompt `(prompts, n)` of best-of-n, for n = 1, 2, ...; exact with one reward.

        With several the winner of a rank sum depends on who else was drawn, so it is simulated.
        """
        if len(self.scores.rewards) == 1:
            return best_of_n_curve(self.scores.values())
        counts = np.unique(np.geomspace(1, self.most, 20).round().astype(int))
        counts = np.union1d(counts, np.arange(1, min(self.most, 2 * self.best_of_n) + 1))
        known = np.stack([self.draws.rewards((), int(n)) for n in counts], axis=1)
        places = np.arange(1, self.most + 1)
        return np.stack([np.interp(places, counts, row) for row in known])
