"""`gensift train`: models that are trained from data; `bfm` is the only one so far."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from apps.commands.command_line import collect, takes_options_of
from apps.commands.zoo import Json
from apps.console import only_json, say, write, write_json
from apps.jobs.progress import progress_bar
from apps.jobs.run import versions
from apps.training.bfm.options import BFMTraining
from gensift.config import from_dict
from gensift.errors import ConfigError

PANELS = {
    "Model": (
        "size",
        "hidden_size",
        "num_heads",
        "trunk_depth",
        "segment_depth",
        "frn_depth",
        "adaln_rank",
        "patch_size",
        "num_segments",
        "boundaries",
    ),
    "Data": ("image_size", "horizontal_flip", "features"),
    "How to train": (
        "steps",
        "frn_steps",
        "joint_steps",
        "batch_size",
        "frn_batch_size",
        "micro_batch",
        "learning_rate",
        "ema_decay",
        "clip",
        "label_dropout",
        "alignment_weight",
        "projection_width",
        "mixed_precision",
        "gradient_checkpointing",
        "seed",
        "save_every",
    ),
}

app = typer.Typer(help="Train generators on data of your own.", no_args_is_help=True)


@app.callback()
def train() -> None:
    """Train generators on data of your own."""


@app.command()
@takes_options_of(BFMTraining, PANELS, {})
def bfm(
    pictures: Annotated[Path, typer.Argument(help="Folder with one subfolder per class.")],
    *,
    vae: Annotated[
        str,
        typer.Option(help="AutoencoderKL: folder, hub id or zoo name; of a pipeline will do."),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the finished pipeline.")],
    init: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Finished blockwise model to go on from; with --steps 0 only its FRN is trained.",
        ),
    ] = None,
    from_dense: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Finished dense model (SiT) to split into blocks, which are distilled from it.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda or auto; CUDA_VISIBLE_DEVICES says which GPU.")
    ] = "auto",
    as_json: Json = False,
    **given: object,
) -> None:
    """Train a blockwise flow model; the same command again goes on where it stopped.

    Under accelerate launch every process takes its share of each batch, and of the encoding.

    Example: gensift train bfm pictures --vae stabilityai/sd-vae-ft-ema --output model
    """
    from accelerate import Accelerator

    from apps.training.bfm.run import Sources, train_bfm
    from gensift.pipelines.loading import resolve_device

    if ":" in device:
        raise ConfigError(
            f"`--device` is {device!r}; give cpu, cuda or auto, and choose a GPU by "
            "CUDA_VISIBLE_DEVICES."
        )
    config = from_dict(BFMTraining, collect(BFMTraining, given))
    sources = Sources(pictures=pictures, vae=vae, init=init, from_dense=from_dense)
    accelerator = Accelerator(cpu=resolve_device(device) == "cpu", mixed_precision="no")
    with only_json(as_json):
        report = train_bfm(
            sources,
            output,
            config,
            accelerator=accelerator,
            versions=versions(),
            progress=_progress(accelerator.is_main_process),
        )
    accelerator.end_training()
    if not accelerator.is_main_process:
        return
    if as_json:
        write_json(report)
        return
    for name, figures in report["stages"].items():
        shown = ", ".join(f"{key} {value:g}" for key, value in figures.items())
        write(f"{name}: {shown}")
    say(f"Pipeline folder: {output}; draw by generate --model {output}, or gensift.load_pipeline")


def _progress(
    is_shown: bool,
) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    return progress_bar if is_shown else lambda what, total: nullcontext(lambda count: None)
