"""From a folder of pictures to a finished pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps.training.bfm.encoded import (
    EncodedPictures,
    Encoding,
    encoded_files,
    missing_files,
)
from apps.training.bfm.features import load_features
from apps.training.bfm.folder import TrainingFolder
from apps.training.bfm.options import BFMTraining
from apps.training.bfm.parts import load_part
from apps.training.bfm.pictures import PictureFolder
from apps.training.bfm.stages import build_stages
from apps.training.bfm.start import LatentShape, Start, start_model
from apps.training.bfm.trainer import Trainer, check_batches
from gensift.config import to_dict
from gensift.errors import ConfigError, RunFolderError
from gensift.pipelines.bfm.latents import vae_factor
from gensift.protocols import JsonObject

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import AutoencoderKL

STEPS_PER_SEGMENT = 8
GUIDANCE_SCALE = 1.5
"""With the steps above what a finished model is called with: the released evaluation's."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""What is counted, how many there are -> what counts it on."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a training reads.

    Attributes:
        pictures: folder with a subfolder of pictures per class.
        vae: folder, zoo name or hub id of an `AutoencoderKL`, or of a pipeline that has one.
        init: the same of a finished blockwise model to go on from.
        from_dense: the same of a dense `SiTTransformer2DModel` to split.
    """

    pictures: Path
    vae: str
    init: str | None = None
    from_dense: str | None = None


def train_bfm(
    sources: Sources,
    output: Path,
    config: BFMTraining,
    *,
    accelerator: Accelerator | None = None,
    versions: Mapping[str, str] | None = None,
    progress: Progress = lambda what, total: nullcontext(lambda count: None),
) -> JsonObject:
    """Train a model; the same call again goes on where it stopped, or returns the report.

    Args:
        sources: what is read.
        output: folder that becomes a `BFMPipeline`; what the training works with lies below it.
        config: how.
        accelerator: an `accelerate.Accelerator`; None makes one.
        versions: of packages, for the report.
        progress: shows how far it is.

    Returns:
        The report, which is written as `training.json`, too.

    Raises:
        ConfigError: sources or options do not fit together, or a gradient is not finite.
        RunFolderError: `output` holds something else, or cannot be written.
    """
    from accelerate import Accelerator

    accelerator = accelerator or Accelerator(mixed_precision="no")
    pictures = PictureFolder.of(sources.pictures)
    vae = _load_vae(sources.vae)
    shape = _latent_shape(vae, config, len(pictures.classes))
    folder = TrainingFolder(output, _description(sources, pictures, config))
    report = folder.finished()
    if report is not None:
        return report
    start = start_model(config, shape, init=sources.init, from_dense=sources.from_dense)
    check_batches(config, len(start.transformer.segments), accelerator.num_processes)
    encoding = _encoding(vae, start, shape, config)
    # Every process has looked at the folder before one of them writes to it.
    accelerator.wait_for_everyone()
    try:
        if accelerator.is_main_process:
            folder.open()
        accelerator.wait_for_everyone()
        data = _encode(encoding, pictures, folder.work / "encoded", config, accelerator, progress)
        figures = _train(start, encoding, data, folder, config, accelerator, progress)
        report = {
            "config": to_dict(config),
            "sources": _named(sources),
            "pictures": len(data),
            "classes": len(pictures.classes),
            "parameters": sum(p.numel() for p in start.transformer.parameters()),
            "processes": accelerator.num_processes,
            "stages": figures,
            "versions": dict(versions or {}),
        }
        if accelerator.is_main_process:
            _publish(folder, vae, start, pictures, report)
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(
            f"Output folder {str(output)!r} cannot be written ({error.strerror or error}); make "
            "room or choose another, then the same command goes on."
        ) from error
    return report


def _load_vae(source: str) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return load_part(source, "vae", {AutoencoderKL.__name__: AutoencoderKL}).eval()


def _latent_shape(vae: AutoencoderKL, config: BFMTraining, num_classes: int) -> LatentShape:
    factor = vae_factor(vae)
    unit = factor * config.patch_size
    if config.image_size % unit:
        raise ConfigError(
            f"`image_size` is {config.image_size}, but this VAE ({factor} pixels per latent) and "
            f"`patch_size` {config.patch_size} need a multiple of {unit}; give "
            f"{max(config.image_size // unit, 1) * unit}."
        )
    return LatentShape(config.image_size // factor, vae.config.latent_channels, num_classes)


def _description(sources: Sources, pictures: PictureFolder, config: BFMTraining) -> JsonObject:
    """What decides the result, wherever the pictures lie."""
    return to_dict(config) | _named(sources) | {"picture_files": pictures.digest}


def _named(sources: Sources) -> JsonObject:
    return {"vae": sources.vae, "init": sources.init, "from_dense": sources.from_dense}


def _encoding(
    vae: AutoencoderKL, start: Start, shape: LatentShape, config: BFMTraining
) -> Encoding:
    grid = shape.sample_size // start.transformer.config.patch_size
    is_aligned = start.teacher is None and config.steps > 0
    features = load_features(config.features) if is_aligned else None
    if features is not None:
        features.check_grid(grid)
    return Encoding(vae, features, config.image_size, grid)


def _encode(
    encoding: Encoding,
    pictures: PictureFolder,
    folder: Path,
    config: BFMTraining,
    accelerator: Accelerator,
    progress: Progress,
) -> EncodedPictures:
    folder.mkdir(exist_ok=True)
    files = encoded_files(folder, len(pictures.files), flips=config.horizontal_flip)
    world, rank = accelerator.num_processes, accelerator.process_index
    # Shared out by file, whichever are there: every process may see another moment.
    mine = list(missing_files(files[rank::world]))
    networks = [encoding.vae, *([encoding.features] if encoding.features is not None else [])]
    for network in networks:
        network.to(accelerator.device)
    with progress("pictures encoded", sum(len(file.rows) for file in mine)) as advance:
        for file in mine:
            encoding.encode(pictures, file, advance)
    for network in networks:
        network.to("cpu")
    accelerator.wait_for_everyone()
    return EncodedPictures(files, with_features=encoding.features is not None)


def _train(
    start: Start,
    encoding: Encoding,
    data: EncodedPictures,
    folder: TrainingFolder,
    config: BFMTraining,
    accelerator: Accelerator,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    channels = None if encoding.features is None else encoding.features.channels
    stages = build_stages(start, config, channels)
    trainer = Trainer(
        start.transformer, stages, data, folder.work, folder.identity, config, accelerator
    )
    with progress("optimiser steps", sum(stage.steps for stage in stages)) as advance:
        return trainer.run(advance)


def _publish(
    folder: TrainingFolder,
    vae: AutoencoderKL,
    start: Start,
    pictures: PictureFolder,
    report: JsonObject,
) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from gensift.pipelines.bfm.pipeline import BFMPipeline

    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipeline = BFMPipeline(vae, start.transformer.cpu(), scheduler, classes=pictures.classes)
    steps = STEPS_PER_SEGMENT * len(start.transformer.segments)
    call = {"num_inference_steps": steps, "guidance_scale": GUIDANCE_SCALE}
    folder.publish(pipeline, call, report)
