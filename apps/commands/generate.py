"""The `generate` command: from prompts to sifted pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from apps.commands import errors
from apps.commands.command_line import collect, takes_options_of
from apps.console import only_json, write_json
from apps.jobs.options import NAMES, PANELS, GenerateOptions, read_options
from apps.jobs.processes import joined
from apps.jobs.prompts import gather_rows
from gensift.errors import ConfigError
from gensift.protocols import JsonObject

app = typer.Typer(
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
    typer.Option(
        "--list-samplers",
        help="List samplers and options, or only those of one: --list-samplers NAME.",
        rich_help_panel=_TALK,
    ),
]
SamplerName = Annotated[
    # Typer has no options whose value may be left out, so the value is an argument.
    str | None, typer.Argument(metavar="", hidden=True)
]
ListRewards = Annotated[
    bool, typer.Option("--list-rewards", help="List rewards.", rich_help_panel=_TALK)
]


@app.command(epilog="--version says which version this is.")
@takes_options_of(GenerateOptions, PANELS, NAMES)
def generate(
    context: typer.Context,
    name: SamplerName = None,
    *,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    list_samplers: ListSamplers = False,
    list_rewards: ListRewards = False,
    **given: object,
) -> None:
    """Draw many candidates per prompt, sift them by a reward, and keep the best.

    The same command again goes on where an interrupted run stopped.

    Example: generate --sampler ttsnap --prompt "a red circle left of a blue square" -n 16
    """
    if name is not None and not list_samplers:
        raise ConfigError(f"{name!r} belongs to no option; give it after one, such as --prompt.")
    if list_samplers or list_rewards:
        _list(as_json, name, with_samplers=list_samplers, with_rewards=list_rewards)
        return
    from apps.jobs.job import check_output
    from apps.jobs.preparation import prepare
    from apps.jobs.report import report
    from apps.jobs.run import plan_job, run_job

    options = read_options(collect(GenerateOptions, given), config)
    texts = (*options.task, *options.prompt)
    rows = gather_rows(texts, options.prompts, options.prompt_column)
    prompts = [row.text for row in rows]
    check_output(options.output)
    invocation: errors.Invocation = context.obj
    exchange = invocation.exchange
    with only_json(as_json):
        job = prepare(options, prompts, invocation.command, exchange, rows=rows)
        # Called from here, not through a table of functions: every frame down to the denoiser is
        # one more to read in a traceback.
        found = plan_job(job, exchange) if dry_run else run_job(job, exchange)
    report(job, found, as_json=as_json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return errors.run(app, "generate", sys.argv[1:] if argv is None else argv, joined)


def _list(as_json: bool, name: str | None, *, with_samplers: bool, with_rewards: bool) -> None:
    from apps.commands import listing

    samplers, rewards = [], []
    with only_json(as_json):
        if with_samplers:
            samplers = listing.samplers() if name is None else [listing.sampler(name)]
        if with_rewards:
            rewards = listing.names("rewards")
    if as_json:
        document: JsonObject = {"samplers": samplers} if with_samplers else {}
        found = [entry.name for entry in rewards]
        write_json(document | ({"rewards": found} if with_rewards else {}))
        return
    listing.show_samplers(samplers)
    if with_rewards:
        listing.show_names("rewards", rewards)


if __name__ == "__main__":
    raise SystemExit(main())
