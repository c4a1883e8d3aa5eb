"""`gensift tune` for TTSnap: the work on recorded scores, and the report of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from apps.console import log, only_json, out, say, write_json
from apps.jobs.preparation import load_one_reward
from apps.jobs.progress import progress_bar
from gensift.config import config_hash, save_file
from gensift.errors import ConfigError
from gensift.protocols import JsonObject
from samplers.diffusion.schedule import UnitCosts, plan_stages, search_cost

if TYPE_CHECKING:
    from samplers.tuning import RankingQuality, Recommendation, ScoreTensors, TuneConfig

DEFAULT_CANDIDATES = 10.0
"""Of best-of-N, whose cost is the budget where none is given."""


@dataclass(frozen=True, kw_only=True)
class PruningOptions:
    """What was asked for on the command line; the fields are its options.

    Attributes:
        unit_costs: of a step, an early and a final scoring.
        budget: most that the search for one prompt may cost, in the unit of the unit costs.
        budget_in_candidates: the same, in candidates of best-of-N.
        max_checkpoints, folds, seed: see `TuneConfig`.
        output: where to write the schedule.
        as_json: whether to print one JSON document.
    """

    unit_costs: UnitCosts
    budget: float | None
    budget_in_candidates: float | None
    max_checkpoints: int
    folds: int
    seed: int
    output: Path | None
    as_json: bool


def tune_pruning(tensors: ScoreTensors, options: PruningOptions) -> None:
    """Find the schedule, write it and show it.

    Raises:
        ConfigError: an option is out of range, or the scores are too few for it.
    """
    # SciPy takes a second to load, which the other commands need not wait for.
    from samplers.tuning import TuneConfig, ranking_quality, tune
    from samplers.tuning.schedule_file import generate_config

    unit_costs = options.unit_costs
    config = TuneConfig(
        budget=_budget(options, tensors.num_steps),
        max_checkpoints=options.max_checkpoints,
        folds=options.folds,
        seed=options.seed,
    )
    with only_json(options.as_json), log.status("Tuning", spinner="dots"):
        found = tune(tensors, unit_costs, config)
        quality = {
            name: ranking_quality(part.early, part.final) for name, part in tensors.rewards.items()
        }
    _warn(tensors, found)
    schedule = generate_config(found.checkpoints, tensors.num_steps)
    if options.output is not None:
        save_file(schedule, options.output)
    if options.as_json:
        write_json(_document(tensors, unit_costs, config, quality, found, schedule))
        return
    for name, rows in quality.items():
        _show_quality(name, rows, tensors)
    _show(tensors, unit_costs, config, found)
    if options.output is not None:
        say(f"Schedule: {options.output}")


def scores_of(path: Path, reward: str | None, options: Sequence[str], device: str) -> ScoreTensors:
    """Scores that a file holds, or those of a recording by a reward.

    Raises:
        ConfigError: there are none, or the reward does not fit.
    """
    from samplers.tuning import read_scores

    if not path.is_dir():
        if reward is not None or options:
            raise ConfigError(
                f"{str(path)!r} holds scores already; give --reward with a recording only."
            )
        return read_scores(path)
    from rewards.noise_aware.recording import Recording
    from samplers.tuning.scored_recording import only_reward, scored

    recording = Recording(path)
    scorer = load_one_reward(reward or only_reward(recording), options, device)
    label = config_hash({"options": sorted(options)})[:8] if options else ""
    with progress_bar("prompts scored", len(recording.prompts)) as bar:
        return scored(recording, scorer, label=label, on_prompt=bar)


def unit_costs_of(step: float, scoring: float, preview: float | None) -> UnitCosts:
    """Unit costs from the options.

    Raises:
        ConfigError: one is no amount, or a step costs nothing.
    """
    given = {"--step-cost": step, "--scoring-cost": scoring, "--preview-cost": preview or 0.0}
    problems = [
        f"`{name}` is {costs}; give a number of 0 or more"
        for name, costs in given.items()
        if not (math.isfinite(costs) and costs >= 0)
    ]
    if step == 0:
        problems.append("`--step-cost` is 0; a step must cost something")
    if problems:
        raise ConfigError.from_problems("tune", problems)
    return UnitCosts(step=step, scoring=scoring, preview=preview)


def _budget(options: PruningOptions, num_steps: int) -> float:
    count = options.budget_in_candidates
    if options.budget is not None and count is not None:
        raise ConfigError("`--budget` and `--budget-in-candidates` are both given; give one.")
    if options.budget is not None:
        return options.budget
    # Such as 10 times the cost of one candidate, which may come out a rounding error below that
    # of ten.
    count = DEFAULT_CANDIDATES if count is None else count
    if count == round(count) and count >= 1:
        return search_cost(plan_stages((), num_steps, round(count), 1), options.unit_costs)
    return count * search_cost(plan_stages((), num_steps, 1, 1), options.unit_costs)


def _warn(tensors: ScoreTensors, found: Recommendation) -> None:
    if tensors.not_finite:
        say(
            f"warning: {tensors.not_finite} scores are not finite; such images never survive a "
            "checkpoint and never win",
            style="yellow",
        )
    if found.skipped:
        say(
            f"warning: {found.skipped} schedules need more than the {tensors.num_images} images "
            "recorded per prompt and were not tried; record more images to try them",
            style="yellow",
        )


def _show_quality(name: str, rows: tuple[RankingQuality, ...], tensors: ScoreTensors) -> None:
    out.print(f"Ranking by {name}", markup=False, highlight=False)
    sigmas = tensors.sigmas
    columns = ["step", *(["sigma"] if sigmas else []), "tau", "Tacc", "Tgap", "Tacc 25 %"]
    table = Table(*columns, "Tgap 25 %", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        figures = (row.tau, row.tacc, row.tgap, row.tacc_quarter, row.tgap_quarter)
        noise = [f"{sigmas[row.step_index]:.3f}"] if sigmas else []
        table.add_row(str(row.step_index), *noise, *(f"{figure:.3f}" for figure in figures))
    out.print(table, highlight=False)
    _line("")


def _show(
    tensors: ScoreTensors, unit_costs: UnitCosts, config: TuneConfig, found: Recommendation
) -> None:
    unit = "reward" if len(tensors.rewards) == 1 else "mean rank, 0 to 1"
    _line(
        f"{tensors.num_prompts} prompts, {tensors.num_images} images each, {tensors.num_steps} "
        f"steps; a step costs {unit_costs.step:g}, an early scoring "
        f"{unit_costs.early_scoring:g}, a final one {unit_costs.scoring:g}; budget "
        f"{config.budget:g}"
    )
    _line(f"best-of-N: n = {found.best_of_n}, {unit} {found.best_of_n_reward:.4f}")
    if not found.prunes:
        _line(f"Do not prune: {found.reason}.")
        return
    steps = ", ".join(str(point.step_index) for point in found.checkpoints)
    keep = ", ".join(f"{point.keep:g}" for point in found.checkpoints)
    _line(f"Prune after steps {steps} (counted from 0), keep {keep}: {found.reason}.")
    _line(f"TTSnap: n = {found.num_candidates}, cost {found.cost:g}")
    _line(f"Equivalent: best-of-N with {found.equivalent} candidates")
    omega = "not measured, more images per prompt are needed"
    _line(f"omega: {found.omega if found.omega is not None else omega}")


def _line(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _document(
    tensors: ScoreTensors,
    unit_costs: UnitCosts,
    config: TuneConfig,
    quality: Mapping[str, tuple[RankingQuality, ...]],
    found: Recommendation,
    schedule: JsonObject,
) -> JsonObject:
    return {
        "prompts": tensors.num_prompts,
        "images": tensors.num_images,
        "steps": tensors.num_steps,
        "not_finite": tensors.not_finite,
        "prices": unit_costs,
        "config": config,
        "ranking": quality,
        "recommendation": found,
        "prunes": found.prunes,
        "schedule": schedule,
    }
