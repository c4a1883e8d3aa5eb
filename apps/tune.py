"""`gensift tune`: find a pruning schedule offline, on scores that were recorded once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from apps.console import log, only_json, out, say, write_json
from apps.preparation import load_one_reward
from apps.progress import progress_bar
from gensift.config import config_hash, save_file
from gensift.errors import ConfigError
from samplers.diffusion.schedule import Prices, plan_stages, search_cost

if TYPE_CHECKING:
    from samplers.tuning import RankingQuality, Recommendation, ScoreTensors, TuneConfig

DEFAULT_CANDIDATES = 10.0

Scores = Annotated[
    Path,
    typer.Argument(
        metavar="SCORES",
        help="Scores per prompt, image and step (.npz, .safetensors, .npy), or a folder that "
        "gensift record wrote.",
        show_default=False,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Most that the search for one prompt may cost, in the unit of the prices.",
    ),
]
BudgetInCandidates = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="The same, in candidates of best-of-N. Default: 10.",
    ),
]
StepCost = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Price of a denoising step of one candidate, guidance included. The default prices "
        "are published ones for FLUX at 512x512.",
    ),
]
PreviewCost = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Price of decoding and scoring an early estimate; by default that of a verdict.",
        show_default=False,
    ),
]
VerdictCost = Annotated[
    float, typer.Option(metavar="X", help="Price of decoding and scoring a finished picture.")
]
MaxCheckpoints = Annotated[int, typer.Option(min=1, max=3, metavar="N", help="Most checkpoints.")]
Folds = Annotated[
    int, typer.Option(min=2, metavar="N", help="Parts that the prompts are split into.")
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Of the split and the simulation.")]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Where to write the schedule (.json), for generate --config.",
        show_default=False,
    ),
]
RewardName = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Of a recording: what judges it, noise-aware where it can be. Needed where several "
        "were recorded.",
    ),
]
RewardOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="Option of that reward as key=value, such as noise_aware=DIR."
    ),
]
Device = Annotated[str, typer.Option(metavar="TEXT", help="Where it runs: cpu, cuda or auto.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def command(
    scores: Scores,
    budget: Budget = None,
    budget_in_candidates: BudgetInCandidates = None,
    step_cost: StepCost = 9.9,
    preview_cost: PreviewCost = None,
    verdict_cost: VerdictCost = 1.2,
    max_checkpoints: MaxCheckpoints = 3,
    folds: Folds = 5,
    seed: Seed = 0,
    output: Output = None,
    reward: RewardName = None,
    reward_option: RewardOption = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find a pruning schedule that beats best-of-N at the same budget, or say that none does."""
    # SciPy takes a second to load, which the other commands need not wait for.
    from samplers.tuning import TuneConfig, ranking_quality, tune
    from samplers.tuning.schedule_file import generate_config

    _check_output(output)
    prices = _prices(step_cost, verdict_cost, preview_cost)
    tensors = _scores(scores, reward, reward_option or (), device)
    amount = _budget(budget, budget_in_candidates, prices, tensors.num_steps)
    config = TuneConfig(budget=amount, max_checkpoints=max_checkpoints, folds=folds, seed=seed)
    with only_json(as_json), log.status("Tuning", spinner="dots"):
        found = tune(tensors, prices, config)
        quality = {
            name: ranking_quality(part.early, part.final) for name, part in tensors.rewards.items()
        }
    _warn(tensors, found)
    schedule = generate_config(found.checkpoints, tensors.num_steps)
    if output is not None:
        save_file(schedule, output)
    if as_json:
        write_json(_document(tensors, prices, config, quality, found, schedule))
        return
    for name, rows in quality.items():
        _show_quality(name, rows, tensors)
    _show(tensors, prices, config, found)
    if output is not None:
        say(f"Schedule: {output}")


def _scores(path: Path, reward: str | None, options: Sequence[str], device: str) -> ScoreTensors:
    """Scores that a file holds, or those of a recording."""
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
    judge = load_one_reward(reward or only_reward(recording), options, device)
    label = config_hash({"options": sorted(options)})[:8] if options else ""
    with progress_bar("prompts scored", len(recording.prompts)) as bar:
        return scored(recording, judge, label=label, on_prompt=bar)


def _prices(step: float, verdict: float, preview: float | None) -> Prices:
    given = {"--step-cost": step, "--verdict-cost": verdict, "--preview-cost": preview or 0.0}
    problems = [
        f"`{name}` is {price}; give a number of 0 or more"
        for name, price in given.items()
        if not (math.isfinite(price) and price >= 0)
    ]
    if step == 0:
        problems.append("`--step-cost` is 0; a step must cost something")
    if problems:
        raise ConfigError.from_problems("tune", problems)
    return Prices(step=step, verdict=verdict, preview=preview)


def _budget(
    budget: float | None, in_candidates: float | None, prices: Prices, num_steps: int
) -> float:
    if budget is not None and in_candidates is not None:
        raise ConfigError("`--budget` and `--budget-in-candidates` are both given; give one.")
    if budget is not None:
        return budget
    # Such as 10 times the cost of one candidate, which may come out a rounding error below that
    # of ten.
    count = DEFAULT_CANDIDATES if in_candidates is None else in_candidates
    if count == round(count) and count >= 1:
        return search_cost(plan_stages((), num_steps, round(count), 1), prices)
    return count * search_cost(plan_stages((), num_steps, 1, 1), prices)


def _check_output(path: Path | None) -> None:
    """Refuse a file that cannot be written before the work is done."""
    if path is None:
        return
    if path.suffix.lower() != ".json":
        raise ConfigError(f"`--output` is {str(path)!r}; end it in .json.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"`--output` is {str(path)!r}, in a folder that is not there; make it.")


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


def _show(tensors: ScoreTensors, prices: Prices, config: TuneConfig, found: Recommendation) -> None:
    unit = "reward" if len(tensors.rewards) == 1 else "mean rank, 0 to 1"
    _line(
        f"{tensors.num_prompts} prompts, {tensors.num_images} images each, {tensors.num_steps} "
        f"steps; a step costs {prices.step:g}, an early verdict {prices.early_verdict:g}, a final "
        f"one {prices.verdict:g}; budget {config.budget:g}"
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
    prices: Prices,
    config: TuneConfig,
    quality: dict[str, tuple[RankingQuality, ...]],
    found: Recommendation,
    schedule: dict[str, Any],
) -> dict[str, Any]:
    return {
        "prompts": tensors.num_prompts,
        "images": tensors.num_images,
        "steps": tensors.num_steps,
        "not_finite": tensors.not_finite,
        "prices": prices,
        "config": config,
        "ranking": quality,
        "recommendation": found,
        "prunes": found.prunes,
        "schedule": schedule,
    }
