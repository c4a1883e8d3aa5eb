"""`gensift zoo`: the embedded models, trained and measured by recipes that anyone can run again."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from apps.console import log, only_json, out, say, write, write_json
from gensift.errors import ConfigError, MissingExtraError, UnknownNameError, nearest_hint
from gensift.protocols import JsonObject
from gensift.zoo.catalog import ZOO, ZooEntry, model_folder

app = typer.Typer(help="The embedded models: list, train, evaluate.")

Name = Annotated[str, typer.Argument(help="Zoo name; see `gensift zoo list`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def models() -> list[JsonObject]:
    """All zoo models, each with whether its weights are there."""
    return [
        {
            "name": entry.name,
            "family": entry.family,
            "task": entry.task,
            "has_weights": has_weights(entry.name),
        }
        for entry in ZOO.values()
    ]


def has_weights(name: str) -> bool:
    """Whether the folder of a zoo model holds any weights."""
    try:
        return any(model_folder(name).rglob("*.safetensors"))
    except ConfigError:
        return False


def show_models(entries: list[JsonObject]) -> None:
    """Print the zoo as a table."""
    table = Table("zoo model", "family", "task", "weights", box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        found = "present" if entry["has_weights"] else "missing"
        table.add_row(entry["name"], entry["family"], entry["task"], found)
    out.print(table)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the embedded models."""
    if as_json:
        write_json({"zoo": models()})
    else:
        show_models(models())


@app.command()
def train(
    name: Name,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to work; by default training/NAME."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; by default those of the recipe.")
    ] = None,
) -> None:
    """Train an embedded model by its recipe; the same command again goes on where it stopped."""
    recipe = _function(_entry(name).train)
    finished = recipe(folder if folder is not None else Path("training") / name, steps)
    say(f"Trained {name}: {finished}")


@app.command()
def evaluate(name: Name, as_json: Json = False) -> None:
    """Measure an embedded model by the figures of its card."""
    measure = _function(_entry(name).evaluate)
    with only_json(as_json), log.status(f"Evaluating {name}", spinner="dots"):
        figures = measure()
    if as_json:
        write_json(figures)
        return
    for key, value in figures.items():
        write(f"{key}: {value}")


def _entry(name: str) -> ZooEntry:
    if name not in ZOO:
        raise UnknownNameError(
            f"{name!r} is not a zoo model.{nearest_hint(name, ZOO)} Zoo: {', '.join(ZOO)}."
        )
    return ZOO[name]


def _function(target: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f"The zoo recipe {target!r} cannot be imported ({error}); install what is missing."
        ) from error
    return found
