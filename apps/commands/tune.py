"""`gensift tune`: find a pruning schedule offline, on scores that were recorded once.

With `--sampler tts-var` it is the scales of TTS-VAR that are found, by `tune_scales`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from apps.commands.command_line import collect, flag, takes_options_of
from apps.commands.tune_pruning import PruningOptions, scores_of, tune_pruning, unit_costs_of
from apps.commands.tune_scales import NAMES, PANELS, ScaleOptions, tune_scales
from apps.commands.tune_scales import SAMPLER as TTS_VAR
from apps.commands.written_files import check_file
from apps.console import say
from gensift.config import from_dict
from gensift.errors import ConfigError

TTSNAP = "ttsnap"
SAMPLERS = (TTSNAP, TTS_VAR)
OF_TTSNAP = (
    *("budget", "budget_in_candidates", "step_cost", "preview_cost", "scoring_cost"),
    *("verdict_cost", "max_checkpoints", "folds"),
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
        help="Cost of a denoising step of one candidate, guidance included. The default unit "
        "costs are published ones for FLUX at 512x512.",
    ),
]
PreviewCost = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Cost of decoding and scoring an early estimate; by default as a finished picture.",
        show_default=False,
    ),
]
ScoringCost = Annotated[
    float, typer.Option(metavar="X", help="Cost of decoding and scoring a finished picture.")
]
VerdictCost = Annotated[float | None, typer.Option(metavar="X", hidden=True)]
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
        help="Reward that scores. Of a recording noise-aware where it can be, and needed where "
        "several were recorded; with tts-var that of generate by default.",
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
    scoring_cost: ScoringCost = 1.2,
    verdict_cost: VerdictCost = None,
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
    if verdict_cost is not None:
        scoring_cost = _renamed(context, verdict_cost)
    options = PruningOptions(
        unit_costs=unit_costs_of(step_cost, scoring_cost, preview_cost),
        budget=budget,
        budget_in_candidates=budget_in_candidates,
        max_checkpoints=max_checkpoints,
        folds=folds,
        seed=seed,
        output=output,
        as_json=as_json,
    )
    tune_pruning(scores_of(scores, reward, reward_option or (), device), options)


def _renamed(context: typer.Context, scoring_cost: float) -> float:
    """What the old name of `--scoring-cost` was given.

    Raises:
        ConfigError: the new one was given, too.
    """
    if _is_given(context, "scoring_cost"):
        raise ConfigError(
            "`--verdict-cost` is the old name of `--scoring-cost`, and both are given; give "
            "`--scoring-cost`."
        )
    say(
        "warning: `--verdict-cost` is now called `--scoring-cost`; rename it, the old name will go",
        style="yellow",
    )
    return scoring_cost


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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
        if _is_given(context, name):
            raise ConfigError(f"`{flag(name)}` is not for --sampler {sampler}; leave it out.")
