"""The `gensift` command: everything around generating."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from apps.commands import convert, errors, train_bfm, tune, zoo
from apps.commands.app import app as serve_app
from apps.commands.calibrate import calibrate
from apps.commands.record import record
from apps.commands.train_reward import train_reward
from apps.commands.zoo import Json
from apps.console import only_json, write_json

app = typer.Typer(
    help="Sift among generations. To generate, use the command `generate`.",
    epilog="--version says which this is, on every command.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(zoo.app, name="zoo")
app.add_typer(convert.app, name="convert")
app.add_typer(train_bfm.app, name="train")
app.command()(calibrate)
app.command()(record)
app.command("train-reward")(train_reward)
app.command("tune")(tune.command)
app.command("app")(serve_app)


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """List samplers, rewards, caches and zoo models."""
    from apps.commands import listing

    kinds = ("samplers", "rewards", "caches")
    with only_json(as_json):
        found = {kind: listing.names(kind) for kind in kinds}
    if as_json:
        written = {kind: [entry.name for entry in entries] for kind, entries in found.items()}
        write_json({**written, "zoo": zoo.models()})
        return
    for kind in kinds:
        listing.show_names(kind, found[kind])
    zoo.show_models(zoo.models())


@app.command()
def doctor(as_json: Json = False) -> None:
    """Report versions, devices, attention backends and zoo weights."""
    from apps.commands.doctor import examine, show

    with only_json(as_json):
        report = examine()
    if as_json:
        write_json(report)
    else:
        show(report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    return errors.run(app, "gensift", given or ["--help"])


if __name__ == "__main__":
    raise SystemExit(main())
