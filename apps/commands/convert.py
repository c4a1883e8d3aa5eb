"""`gensift convert`: published checkpoints as folders that gensift loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.console import log, only_json, say, write, write_json
from gensift.errors import ConfigError

if TYPE_CHECKING:
    from gensift.pipelines.next_scale.conversion import Report, WeightDtype

DTYPES = ("float32", "bfloat16", "float16")

app = typer.Typer(help="Convert published checkpoints to pipeline folders.", no_args_is_help=True)

Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SRC...",
        help="A folder with the checkpoints of transformer and tokenizer, or the two files (of "
        "shards the .index.json).",
        show_default=False,
    ),
]
Destination = Annotated[
    Path, typer.Argument(metavar="DST", help="The new folder.", show_default=False)
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Read .pth, .pt, .bin and .ckpt files too; only tensors in them."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(DTYPES), help="Of the weights. Default: as they are.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.command()
def var(
    sources: Sources,
    destination: Destination,
    scales: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Sides of the token grids, for models other than the published ones.",
            show_default=False,
        ),
    ] = None,
    allow_pickle: AllowPickle = False,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Convert a VAR checkpoint (var_d16 to var_d36) and its tokenizer."""
    sides, weights = _sides(scales), _dtype(dtype)
    from gensift.pipelines.var.convert import convert

    with only_json(as_json), log.status("Converting", spinner="dots"):
        reports = convert(
            sources, destination, scales=sides, allow_pickle=allow_pickle, dtype=weights
        )
    _show(reports, destination, as_json)


@app.command()
def infinity(
    sources: Sources,
    destination: Destination,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder or hub id of the text encoder, such as google/flan-t5-xl.",
            show_default=False,
        ),
    ] = None,
    allow_pickle: AllowPickle = False,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Convert an Infinity checkpoint (2B, 8B) and its tokenizer."""
    weights = _dtype(dtype)
    from gensift.pipelines.infinity.convert import convert

    with only_json(as_json), log.status("Converting", spinner="dots"):
        reports = convert(
            sources,
            destination,
            text_encoder=text_encoder,
            allow_pickle=allow_pickle,
            dtype=weights,
        )
    _show(reports, destination, as_json)
    if text_encoder is None:
        say(
            f"warning: {destination} has no text encoder; convert again with --text-encoder "
            "google/flan-t5-xl, or give `text_encoder` and `tokenizer` to from_pretrained",
            style="yellow",
        )


@app.command("diffusion-policy")
def diffusion_policy(
    sources: Sources,
    destination: Destination,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads of the transformer.")] = 4,
    action_steps: Annotated[int, typer.Option(min=1, help="Actions executed per call.")] = 8,
    prediction_type: Annotated[
        str, typer.Option(metavar="epsilon|sample", help="What the network predicts.")
    ] = "epsilon",
    allow_pickle: AllowPickle = False,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Convert a Diffusion Policy checkpoint of a low-dimensional task (transformer)."""
    weights = _dtype(dtype)
    from gensift.pipelines.policy.convert import PolicySettings, convert

    settings = PolicySettings(
        n_head=heads, n_action_steps=action_steps, prediction_type=prediction_type
    )
    with only_json(as_json), log.status("Converting", spinner="dots"):
        reports = convert(sources, destination, settings, allow_pickle=allow_pickle, dtype=weights)
    _show(reports, destination, as_json)


def _sides(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(side) for side in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"`--scales` is {text!r}; give whole numbers, as in 1,2,3,4.") from error


def _dtype(name: str | None) -> WeightDtype | None:
    if name is not None and name not in DTYPES:
        raise ConfigError(f"`--dtype` is {name!r}; allowed: {', '.join(DTYPES)}.")
    return name  # type: ignore[return-value]


def _show(reports: Sequence[Report], destination: Path, as_json: bool) -> None:
    if as_json:
        write_json({"folder": str(destination), "parts": reports})
        return
    for report in reports:
        dropped = f", dropped {', '.join(report.dropped)}" if report.dropped else ""
        write(
            f"{report.part}: {report.renamed} tensors of {report.source}, "
            f"{report.parameters:,} parameters, {report.dtype}{dropped}"
        )
    write(f"Model folder: {destination}")
