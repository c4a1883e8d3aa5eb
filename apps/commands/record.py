"""`gensift record`: keep what candidates look like after every step, to train and tune on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands.command_line import collect, takes_options_of
from apps.console import say
from apps.jobs.options import Dtype, GenerateOptions, reward_options
from apps.jobs.preparation import check_reward_names, default_reward, load_models, resolve_call
from apps.jobs.progress import progress_bar
from apps.jobs.prompts import gather_prompts
from gensift.config import check, from_dict, option
from gensift.errors import ConfigError
from gensift.protocols import CallArguments, JsonObject, Pipeline

if TYPE_CHECKING:
    from rewards.protocol import Reward

DEFAULT_MODEL = "shapes-flux"


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """Options of `gensift record`; those shared with `generate` mean the same."""

    prompt: tuple[str, ...] = option((), help="Text to record for; repeat it for several.")
    prompts: str | None = option(None, help="File of prompts: .txt, .jsonl or .csv.")
    model: str | None = option(None, help="Zoo name, folder or hub id; shapes-flux by default.")
    reward: tuple[str, ...] = option(
        (), help="What scores the finished pictures; repeat it for several."
    )
    reward_option: tuple[str, ...] = option(
        (), help="Option of a reward as key=value; with several as reward:key=value."
    )
    num_images: int = option(8, minimum=2, help="Candidates per prompt.")
    steps: int | None = option(
        None, minimum=2, help="Denoising steps; by default what the model asks for."
    )
    guidance_scale: float | None = option(None, minimum=0, help="Strength of guidance.")
    call: tuple[str, ...] = option((), help="Argument of the pipeline's own call as key=value.")
    seed: int = option(0, minimum=0, help="Number that all randomness derives from.")
    picture_size: int = option(
        224, minimum=16, help="Longest side of the kept pictures; larger ones are scaled down."
    )
    preview_decoder: str = option(
        "auto", help="What decodes early estimates; take the one that searches will use."
    )
    output: str | None = option(None, help="Folder of the recording; must be given.")
    prompts_per_shard: int = option(16, minimum=1, help="Prompts drawn together, and per file.")
    max_rows: int | None = option(None, minimum=1, help="Most denoiser rows at a time.")
    dtype: Dtype = option(
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="float32, bfloat16, float16, or auto.",
    )
    device: str = option("auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.")

    def __post_init__(self) -> None:
        check(self, [] if self.output else ["`output` is missing; give --output DIR"])


PANELS = {
    "What to record": (
        "prompt",
        "prompts",
        "model",
        "num_images",
        "steps",
        "guidance_scale",
        "call",
        "seed",
    ),
    "How to judge and keep": (
        "reward",
        "reward_option",
        "picture_size",
        "preview_decoder",
        "output",
    ),
    "How to run": ("prompts_per_shard", "max_rows", "dtype", "device"),
}


@takes_options_of(RecordOptions, PANELS, {"num_images": ("--num-images", "-n")})
def record(**given: object) -> None:
    """Record trajectories; the same command again goes on where it stopped.

    Example: gensift record --prompts prompts.txt --reward shapes-clip --output recording
    """
    options = from_dict(RecordOptions, collect(RecordOptions, given))
    prompts = gather_prompts(options.prompt, options.prompts)
    model = options.model or DEFAULT_MODEL
    names = options.reward or (default_reward(model),)
    shared = _as_generate_options(options, names)
    check_reward_names(names)
    of_rewards = reward_options(shared, names)
    pipe, rewards = load_models(shared, model, of_rewards)
    call, _, _ = resolve_call(shared, pipe)
    description = {"model": model, "call": call, "reward_options": of_rewards}
    _record(pipe, prompts, rewards, options, description, call)
    say(f"Recorded {len(prompts)} prompts x {options.num_images} images: {options.output}")


def _as_generate_options(options: RecordOptions, names: tuple[str, ...]) -> GenerateOptions:
    same = ("reward_option", "steps", "guidance_scale", "call", "seed", "dtype", "device")
    return GenerateOptions(reward=names, **{name: getattr(options, name) for name in same})


def _record(
    pipe: Pipeline,
    prompts: list[str],
    rewards: Mapping[str, Reward],
    options: RecordOptions,
    description: JsonObject,
    call: CallArguments,
) -> None:
    from samplers.diffusion.record import RecordConfig
    from samplers.diffusion.record import record as record_trajectories

    if options.output is None:
        raise ConfigError("`output` is missing; give --output DIR.")
    same = ("num_images", "seed", "prompts_per_shard", "picture_size", "max_rows")
    config = RecordConfig(
        preview_decoder=options.preview_decoder,
        **{name: getattr(options, name) for name in same},
    )
    with progress_bar("prompts", len(prompts)) as advance:
        record_trajectories(
            pipe,
            prompts,
            rewards,
            Path(options.output),
            config,
            description=description,
            on_shard=advance,
            **call,
        )
