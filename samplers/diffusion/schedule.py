"""Where a search prunes, how many candidates survive, and what that costs.

Source: TTSnap (arXiv 2511.22242) for the search; the cost counts every denoiser call, one more per
candidate than the official formula (reaching the estimate of step index s takes s + 1 calls).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gensift.errors import ConfigError
from samplers.output import PlannedStage


@dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """What one unit of work costs, all in the same unit (NFE, FLOPs or seconds).

    Attributes:
        step: one denoising step of one candidate, guidance rows included.
        scoring: one finished picture decoded and scored.
        preview: one early estimate decoded and scored; None where it costs what a scoring does.
    """

    step: float
    scoring: float = 0.0
    preview: float | None = None

    @property
    def early_scoring(self) -> float:
        """What judging an early estimate costs."""
        return self.scoring if self.preview is None else self.preview


@dataclass(frozen=True)
class Checkpoint:
    """A stage at step `step_index` (0-based), at which the share `keep` of the living goes on.

    Attributes:
        step_index: whose estimates are scored.
        keep: share that goes on; 1 where candidates are copied instead of dropped.
        is_scored: whether rewards are asked; where they are not, everybody goes on.
    """

    step_index: int
    keep: float
    is_scored: bool = True


@dataclass(frozen=True)
class PruningSchedule:
    """Checkpoints as shares of the denoising loop, with the share of candidates kept at each.

    Attributes:
        fractions: position of each checkpoint in (0, 1), ascending; step index = round(f * steps).
        keep: keep ratio in (0, 1] at each checkpoint.
    """

    fractions: tuple[float, ...] = ()
    keep: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        problems = schedule_problems(self.fractions, self.keep)
        if problems:
            raise ConfigError.from_problems("PruningSchedule", problems)

    def resolve(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """The checkpoints of a loop of `num_steps` denoiser calls per candidate.

        Those that fall on one step in a short loop are merged (their ratios multiply); those on the
        last step are left out, as the final scoring is made there.
        """
        ratios: dict[int, float] = {}
        for fraction, keep in zip(self.fractions, self.keep, strict=True):
            index = round(fraction * num_steps)
            if index < num_steps - 1:
                ratios[index] = ratios.get(index, 1.0) * keep
        return tuple(Checkpoint(index, keep) for index, keep in ratios.items())


def schedule_problems(fractions: Sequence[float], keep: Sequence[float]) -> list[str]:
    """What is wrong with a schedule, one phrase per fault."""
    problems = []
    if len(fractions) != len(keep):
        problems.append(f"{len(fractions)} checkpoints but {len(keep)} keep ratios; give one each")
    if any(not 0 < f < 1 for f in fractions) or list(fractions) != sorted(set(fractions)):
        problems.append(f"checkpoints {tuple(fractions)} must ascend strictly within (0, 1)")
    if any(not 0 < ratio <= 1 for ratio in keep):
        problems.append(f"keep ratios {tuple(keep)} must lie in (0, 1]")
    return problems


def survivors(alive: int, keep: float) -> int:
    """How many of `alive` candidates are kept: rounded half to even, at least one.

    Halves go to the even neighbour (0.5 of 5 keeps 2), as in the published simulation.
    """
    return max(1, round(alive * keep))


def goes_on(alive: int, keep: float, num_outputs: int) -> int:
    """How many of `alive` candidates pass a checkpoint of a search for `num_outputs`.

    Never fewer than asked for: a search for three pictures cannot keep two.
    """
    return max(survivors(alive, keep), min(num_outputs, alive))


def plan_stages(
    checkpoints: Sequence[Checkpoint], num_steps: int, num_candidates: int, num_outputs: int
) -> tuple[PlannedStage, ...]:
    """The integer truth of a search: every round of scoring, the final scoring last."""
    stages: list[PlannedStage] = []
    alive = num_candidates
    for checkpoint in checkpoints:
        kept = goes_on(alive, checkpoint.keep, num_outputs)
        stages.append(PlannedStage(checkpoint.step_index, num_steps, alive, kept))
        alive = kept
    stages.append(PlannedStage(num_steps - 1, num_steps, alive, min(num_outputs, alive)))
    return tuple(stages)


def denoising_steps(stages: Sequence[PlannedStage]) -> int:
    """Denoising steps over all candidates of one prompt: the sum over stages of living x steps."""
    total, done = 0, 0
    for stage in stages:
        total += stage.alive * (stage.step_index + 1 - done)
        done = stage.step_index + 1
    return total


def num_scored(stages: Sequence[PlannedStage]) -> int:
    """Pictures decoded and scored for one prompt."""
    return sum(stage.alive for stage in stages)


def num_early_scored(stages: Sequence[PlannedStage]) -> int:
    """Those of the `scorings` that are passed on early estimates."""
    return num_scored(stages[:-1])


def search_cost(stages: Sequence[PlannedStage], unit_costs: UnitCosts) -> float:
    """Cost of the search for one prompt, in the unit of `prices`."""
    early = num_early_scored(stages)
    late = num_scored(stages) - early
    return (
        denoising_steps(stages) * unit_costs.step
        + early * unit_costs.early_scoring
        + late * unit_costs.scoring
    )


def cost_per_candidate(
    checkpoints: Sequence[Checkpoint],
    num_steps: int,
    unit_costs: UnitCosts,
    *,
    legacy: bool = False,
) -> float:
    """Expected cost per initial candidate without rounding (best-of-N: no checkpoints).

    `legacy` gives the official formula, which counts one denoiser call too few wherever there are
    checkpoints; it is good only for reproducing published numbers.
    """
    alive, done, total = 1.0, 0, 0.0
    for checkpoint in checkpoints:
        steps = checkpoint.step_index + 1 - done
        total += alive * (steps * unit_costs.step + unit_costs.early_scoring)
        done = checkpoint.step_index + 1
        alive *= checkpoint.keep
    if legacy and checkpoints:
        total -= unit_costs.step
    return total + alive * ((num_steps - done) * unit_costs.step + unit_costs.scoring)


def largest_search(
    checkpoints: Sequence[Checkpoint],
    num_steps: int,
    num_outputs: int,
    unit_costs: UnitCosts,
    budget: float,
) -> int:
    """The largest candidate count whose exact cost fits in `budget`, per prompt.

    Raises:
        ConfigError: not even `num_outputs` candidates fit.
    """

    def cost(count: int) -> float:
        return search_cost(plan_stages(checkpoints, num_steps, count, num_outputs), unit_costs)

    return largest_count(cost, max(1, num_outputs), budget)


def largest_count(cost: Callable[[int], float], least: int, budget: float) -> int:
    """The largest candidate count, from `least` on, whose `cost` fits in `budget`, per prompt.

    Raises:
        ConfigError: not even `least` candidates fit.
    """
    if cost(least) > budget:
        raise ConfigError(
            f"budget {budget:g} is below the cost of {least} candidate(s), {cost(least):g}; raise "
            "the budget, or lower the number of steps."
        )
    low, high = least, least * 2
    while cost(high) <= budget:
        low, high = high, high * 2
    # Rounding makes the cost rise unevenly, yet never fall, as the count grows.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low
