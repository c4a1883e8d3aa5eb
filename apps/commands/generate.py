"""The `generate` command: from prompts to sifted pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from apps.commands import errors
from apps.commands.command_line import collect, takes_options_of
from apps.console import only_json, write_json
from apps.jobs.options import NAMES, PANELS, GenerateOptions, read_options
from apps.jobs.processes import joined
from apps.jobs.prompts import gather_prompts
from samplers.exchange import Exchange

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TALK = "What to say"
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="JSON, TOML or YAML file with any of these options, and those of the sampler under "
        "options; the command line wins.",
        rich_help_panel="How to run",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and its cost.", rich_help_panel=_TALK)
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=_TALK),
]
ListSamplers = Annotated[
    bool,
    typer.Option("--list-samplers", help="List samplers and options.", rich_help_panel=_TALK),
]
ListRewards = Annotated[
    bool, typer.Option("--list-rewards", help="List rewards.", rich_help_panel=_TALK)
]


@app.command()
@takes_options_of(GenerateOptions, PANELS, NAMES)
def generate(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    list_samplers: ListSamplers = False,
    list_rewards: ListRewards = False,
    **given: Any,
) -> None:
    """Draw many candidates per prompt, sift them by a reward, and keep the best.

    The same command again goes on where an interrupted run stopped.

    Example: generate --sampler ttsnap --prompt "a red circle left of a blue square" -n 16
    """
    if list_samplers or list_rewards:
        _list(as_json, with_samplers=list_samplers, with_rewards=list_rewards)
        return
    from apps.jobs.preparation import check_output, prepare

    options = read_options(collect(GenerateOptions, given), config)
    prompts = gather_prompts((*options.task, *options.prompt), options.prompts)
    check_output(options.output)
    with only_json(as_json):
        finish = _plan if dry_run else _run
        exchange = context.obj.exchange
        job = prepare(options, prompts, context.obj.command, exchange)
        show, document = finish(job, exchange)
    if as_json:
        write_json(document)
    else:
        show()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return errors.run(app, "generate", sys.argv[1:] if argv is None else argv, joined)


def _run(job: Any, exchange: Exchange) -> Any:
    from apps.jobs.report import outcome_document, show_outcome
    from apps.jobs.run import run_job

    outcome = run_job(job, exchange)
    if outcome is None:
        return _nothing, None
    return lambda: show_outcome(outcome), outcome_document(job, outcome)


def _plan(job: Any, exchange: Exchange) -> Any:
    from apps.jobs.report import plan_document, show_plan
    from apps.jobs.run import times

    if exchange.rank > 0:
        return _nothing, None
    plan = job.make_sampler().plan(job.pipeline, job.prompts[0], **job.call)
    planned = times(plan.cost, len(job.prompts))
    return lambda: show_plan(job, plan, planned), plan_document(job, plan, planned)


def _nothing() -> None:
    """All but the first process have nothing to show."""


def _list(as_json: bool, *, with_samplers: bool, with_rewards: bool) -> None:
    from apps.commands import listing

    with only_json(as_json):
        samplers = listing.samplers() if with_samplers else []
        rewards = listing.names("rewards") if with_rewards else []
    if as_json:
        document = {"samplers": samplers} if with_samplers else {}
        write_json(document | ({"rewards": rewards} if with_rewards else {}))
        return
    listing.show_samplers(samplers)
    if with_rewards:
        listing.show_names("rewards", rewards)


if __name__ == "__main__":
    raise SystemExit(main())
