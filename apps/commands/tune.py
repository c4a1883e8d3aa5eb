"""`gensift tune`: find a pruning schedule offline, on scores that were recorded once.

With `--sampler tts-var` it is the scales of TTS-VAR that are found, by `tune_scales`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from apps.commands.command_line import collect, flag, takes_options_of
from apps.commands.tune_scales import NAMES, PANELS, ScaleOptions, tune_scales
from apps.commands.tune_scales import SAMPLER as TTS_VAR
from apps.commands.written_files import check_file
from apps.console import log, only_json, out, say, write_json
from apps.jobs.preparation import load_one_reward
from apps.jobs.progress import progress_bar
from gensift.config import config_hash, from_dict, save_file
from gensift.errors import ConfigError
from samplers.diffusion.schedule import UnitCosts, plan_stages, search_cost

if TYPE_CHECKING:
    from samplers.tuning import RankingQuality, Recommendation, ScoreTensors, TuneConfig

DEFAULT_CANDIDATES = 10.0

TTSNAP = "ttsnap"
SAMPLERS = (TTSNAP, TTS_VAR)
OF_TTSNAP = (
    *("budget", "budget_in_candidates", "step_cost", "preview_cost", "verdict_cost"),
    *("max_checkpoints", "folds"),
)
"""Options that TTS-VAR does not have."""

Scores = Annotated[
    Path | None,
    typer.Argument(
        metavar="SCORES",
        help="With ttsnap: scores per prompt, image and step (.npz, .safetensors, .npy), or a "
        "folder that gensift record wrote.",
        show_default=False,
    ),
]
SamplerName = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="What to tune: ttsnap, on SCORES, or tts-var, on what a model draws now.",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Most that the search for one prompt may cost, in the unit of the unit costs.",
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
        help="Price of decoding and scoring an early estimate; by default that of a scoring.",
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
Seed = Annotated[
    int, typer.Option(min=0, metavar="N", help="Number that all randomness derives from.")
]
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
        help="What judges. Of a recording noise-aware where it can be, and needed where several "
        "were recorded; with tts-var that of generate by default.",
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


@takes_options_of(ScaleOptions, PANELS, NAMES)
def command(
    context: typer.Context,
    scores: Scores = None,
    sampler: SamplerName = TTSNAP,
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
    **given: Any,
) -> None:
    """Find a pruning schedule that beats best-of-N at the same budget, or say that none does.

    With --sampler tts-var: find the scales at which rewards can be trusted.
    """
    _check_given(context, sampler, scores)
    check_file("--output", output, ".json")
    if sampler == TTS_VAR:
        tune_scales(
            from_dict(ScaleOptions, collect(ScaleOptions, given)),
            reward=reward,
            reward_option=reward_option or (),
            seed=seed,
            device=device,
            output=output,
            as_json=as_json,
        )
        return
    if scores is None:
        raise ConfigError("SCORES are missing; give a file of scores or a recording.")
    # SciPy takes a second to load, which the other commands need not wait for.
    from samplers.tuning import TuneConfig

    unit_costs = _unit_costs(step_cost, verdict_cost, preview_cost)
    tensors = _scores(scores, reward, reward_option or (), device)
    amount = _budget(budget, budget_in_candidates, unit_costs, tensors.num_steps)
    config = TuneConfig(budget=amount, max_checkpoints=max_checkpoints, folds=folds, seed=seed)
    _tune_pruning(tensors, unit_costs, config, output, as_json=as_json)


def _tune_pruning(
    tensors: ScoreTensors,
    unit_costs: UnitCosts,
    config: TuneConfig,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Find the schedule, write it and show it."""
    from samplers.tuning import ranking_quality, tune
    from samplers.tuning.schedule_file import generate_config

    with only_json(as_json), log.status("Tuning", spinner="dots"):
        found = tune(tensors, unit_costs, config)
        quality = {
            name: ranking_quality(part.early, part.final) for name, part in tensors.rewards.items()
        }
    _warn(tensors, found)
    schedule = generate_config(found.checkpoints, tensors.num_steps)
    if output is not None:
        save_file(schedule, output)
    if as_json:
        write_json(_document(tensors, unit_costs, config, quality, found, schedule))
        return
    for name, rows in quality.items():
        _show_quality(name, rows, tensors)
    _show(tensors, unit_costs, config, found)
    if output is not None:
        say(f"Schedule: {output}")


def _check_given(context: typer.Context, sampler: str, scores: Path | None) -> None:
    """Refuse what the sampler that is tuned has no use for."""
    if sampler not in SAMPLERS:
        raise ConfigError(
            f"`--sampler` is {sampler!r}, which is not tuned; give {' or '.join(SAMPLERS)}."
        )
    if sampler == TTS_VAR and scores is not None:
        raise ConfigError(
            f"SCORES {str(scores)!r} are for {TTSNAP}; {TTS_VAR} is tuned on what the model draws "
            "now, leave them out."
        )
    others = (
        OF_TTSNAP if sampler == TTS_VAR else [name for part in PANELS.values() for name in part]
    )
    for name in others:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"`{flag(name)}` is not for --sampler {sampler}; leave it out.")


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
    scorer = load_one_reward(reward or only_reward(recording), options, device)
    label = config_hash({"options": sorted(options)})[:8] if options else ""
    with progress_bar("prompts scored", len(recording.prompts)) as bar:
        return scored(recording, scorer, label=label, on_prompt=bar)


def _unit_costs(step: float, scoring: float, preview: float | None) -> UnitCosts:
    given = {"--step-cost": step, "--verdict-cost": scoring, "--preview-cost": preview or 0.0}
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


def _budget(
    budget: float | None, in_candidates: float | None, unit_costs: UnitCosts, num_steps: int
) -> float:
    if budget is not None and in_candidates is not None:
        raise ConfigError("`--budget` and `--budget-in-candidates` are both given; give one.")
    if budget is not None:
        return budget
    # Such as 10 times the cost of one candidate, which may come out a rounding error below that
    # of ten.
    count = DEFAULT_CANDIDATES if in_candidates is None else in_candidates
    if count == round(count) and count >= 1:
        return search_cost(plan_stages((), num_steps, round(count), 1), unit_costs)
    return count * search_cost(plan_stages((), num_steps, 1, 1), unit_costs)


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
        f"{unit_costs.early_scoring:g}, a final "
        f"one {unit_costs.scoring:g}; budget {config.budget:g}"
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
    quality: dict[str, tuple[RankingQuality, ...]],
    found: Recommendation,
    schedule: dict[str, Any],
) -> dict[str, Any]:
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
