"""Recording trajectories of any diffusers pipeline: what training and tuning learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gensift.denoising.observer import StepEvent
from gensift.denoising.prediction import check_scheduler
from gensift.errors import RunFolderError
from gensift.pipelines.loading import call_defaults
from gensift.protocols import CallArguments, Pipeline
from gensift.randomness import candidate_seeds
from rewards.noise_aware.recording import RecordingWriter, Shard, batches
from rewards.protocol import Reward, call_reward
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.callback import observe_steps
from samplers.diffusion.preview import Previewer


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """How trajectories are recorded.

    Attributes:
        num_images: candidates per prompt.
        seed: base of their seeds.
        prompts_per_shard: prompts drawn in one pipeline call and kept in one file.
        picture_size: longest side of the kept pictures; larger ones are scaled down.
        max_rows: most denoiser rows, and pictures decoded, at a time.
        preview_decoder: see `gensift.pipelines.loading.load_preview_decoder`; a noise-aware reward
            must learn from the decoder that the search will use.
    """

    num_images: int = 8
    seed: int = 0
    prompts_per_shard: int = 16
    picture_size: int = 224
    max_rows: int | None = None
    preview_decoder: str = "auto"


def record(
    pipe: Pipeline,
    prompts: Sequence[str],
    rewards: Mapping[str, Reward],
    folder: Path,
    config: RecordConfig,
    *,
    description: CallArguments,
    on_shard: Callable[[int], None] = lambda count: None,
    **pipeline_kwargs: Any,
) -> None:
    """Draw `num_images` candidates per prompt and keep every step's estimate; resumable.

    Args:
        pipe: a diffusers pipeline whose denoiser and scheduler are known.
        prompts: one group of candidates each.
        rewards: what scores the finished pictures, by name.
        folder: where the recording goes on if it was begun.
        config: how.
        description: what else decides the recording, kept beside it (model, call arguments).
        on_shard: told the number of prompts that were just finished, or found finished.
        pipeline_kwargs: for the pipeline's own call.

    Raises:
        RunFolderError: the folder holds another recording.
        UnsupportedPipelineError: denoiser or scheduler are not known.
    """
    check_scheduler(pipe.scheduler)
    writer = RecordingWriter(
        folder,
        {
            **description,
            "prompts": len(prompts),
            "num_images": config.num_images,
            "seed": config.seed,
            "prompts_per_shard": config.prompts_per_shard,
            "picture_size": config.picture_size,
            "preview_decoder": config.preview_decoder,
            "rewards": sorted(rewards),
        },
    )
    for number, chosen in enumerate(batches(len(prompts), config.prompts_per_shard)):
        texts = [prompts[index] for index in chosen]
        if writer.has(number) and writer.prompts(number) != tuple(texts):
            raise RunFolderError(
                f"Folder {str(folder)!r} holds a recording of other prompts; repeat that command "
                "to resume it, or choose another folder."
            )
        if not writer.has(number):
            seeds = [candidate_seeds(config.seed, index, config.num_images) for index in chosen]
            writer.write(
                number, _record_shard(pipe, texts, seeds, rewards, config, pipeline_kwargs)
            )
        on_shard(len(chosen))


def _record_shard(
    pipe: Pipeline,
    prompts: list[str],
    seeds: list[list[int]],
    rewards: Mapping[str, Reward],
    config: RecordConfig,
    pipeline_kwargs: CallArguments,
) -> Shard:
    arguments = call_defaults(pipe) | dict(pipeline_kwargs) | {"prompt": prompts}
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), arguments)
    decoder = call.bound.preview_decoder(config.preview_decoder)
    previewer = Previewer(call.bound, *call.size, decoder=decoder, max_images=config.max_rows)
    groups = (len(prompts), config.num_images)
    pictures: list[Tensor] = []
    sigmas: list[float] = []

    def keep(event: StepEvent) -> None:
        sigmas.append(event.flow_sigma)
        if not event.is_last:
            images = previewer.decode(event.pred_original_sample)
            pictures.append(to_bytes(images, config.picture_size).unflatten(0, groups))

    sampler = BestOfN(None, num_candidates=config.num_images, max_rows=config.max_rows)
    with observe_steps(pipe, keep):
        output = sampler(pipe, prompts, seeds=seeds, **{**pipeline_kwargs, "output_type": "pt"})
    finished = torch.stack(output.images).float().clamp(0, 1)
    pictures.append(to_bytes(finished, config.picture_size).unflatten(0, groups))
    texts = [prompt for prompt in prompts for _ in range(config.num_images)]
    scores = {
        name: call_reward(reward, finished, texts, config.max_rows).view(groups)
        for name, reward in rewards.items()
    }
    return Shard(tuple(prompts), tuple(pictures), scores, torch.tensor(seeds), torch.tensor(sigmas))


def to_bytes(images: Tensor, longest: int) -> Tensor:
    """uint8 `(batch, 3, height, width)` on the CPU of float pictures in [0, 1], scaled down."""
    height, width = images.shape[-2:]
    if max(height, width) > longest:
        scale = longest / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        images = interpolate(images, size, mode="bicubic", antialias=True)
    return (images.clamp(0, 1) * 255).round().byte().cpu()
