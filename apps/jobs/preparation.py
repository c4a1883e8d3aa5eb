"""From options to a job that is ready to run: sampler, rewards, pipeline, folder."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.console import silence_libraries
from apps.jobs.devices import check_reward_offload, load_reward_on, own_device
from apps.jobs.options import GenerateOptions, call_arguments, reward_options, sampler_fields
from gensift.config import config_hash, from_dict, to_dict
from gensift.errors import ConfigError, RunFolderError, UnsupportedPipelineError
from samplers.exchange import ALONE, Exchange
from samplers.registry import SAMPLERS

OUTPUTS = Path("outputs")
LoadModels = Callable[..., tuple[Any, dict[str, Any]]]
"""Takes what `load_models` takes, and returns the same."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One `generate` run, settled but not begun.

    Attributes:
        sampler_class: what searches.
        sampler_options: its config as a mapping.
        rewards: what judges, by name.
        pipeline: what draws.
        prompts: all of them, also those that an earlier run has finished.
        seed: number that all randomness derives from.
        call: keyword arguments of the pipeline call that differ from the model's own.
        pipeline_call: with a seed, what reproduces a sample in a plain pipeline call; None for
            samplers whose samples no plain call reproduces.
        config: all that decides the results but the prompts; a folder holds one such config.
        folder: where results go.
        command: the command line.
        is_streamed: whether texts are shown while they form.
    """

    sampler_class: Any
    sampler_options: Mapping[str, Any]
    rewards: Mapping[str, Any]
    pipeline: Any
    prompts: Sequence[str]
    seed: int
    call: Mapping[str, Any]
    pipeline_call: Mapping[str, Any] | None
    config: Mapping[str, Any]
    folder: Path
    command: str
    is_streamed: bool = False

    def make_sampler(self, **changes: Any) -> Any:
        """The sampler, with `changes` to its options."""
        options = {**self.sampler_options, **changes}
        reward = self.rewards or None
        return self.sampler_class(reward=reward, keep_previews=True, **options)


def check_output(path: str | None) -> None:
    """Refuse a run folder that cannot be made, before anything heavy is loaded.

    Raises:
        RunFolderError: if a file is in the way or the folder is not writable.
    """
    folder = Path(path) if path is not None else OUTPUTS
    existing = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        reason = f"{str(existing)!r} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{str(existing)!r} is not writable"
    else:
        return
    raise RunFolderError(
        f"Output folder {str(folder)!r} cannot be made: {reason}; choose another with --output."
    )


def prepare(
    options: GenerateOptions,
    prompts: Sequence[str],
    command: str,
    exchange: Exchange = ALONE,
    load: LoadModels | None = None,
) -> Job:
    """Check everything that can be checked, cheap things first, and load what is needed.

    With other processes in `exchange`, each loads onto a GPU of its own, unless told otherwise.
    `load` stands in for `load_models` where models are kept from one job to the next.

    Raises:
        GensiftError: at the first thing that is wrong.
    """
    sampler_class: Any = SAMPLERS.get(options.sampler)
    config = from_dict(
        sampler_class.config_class, sampler_fields(options, sampler_class.config_class)
    )
    model = options.model or sampler_class.default_model
    if options.stream and sampler_class.modality != "text":
        raise ConfigError(
            f"`--stream` shows texts, but {options.sampler} makes samples of another kind "
            f"({sampler_class.modality}); leave it out."
        )
    if options.task and sampler_class.modality != "action":
        raise ConfigError(
            f"`--task` is for robots, but {options.sampler} makes samples of another kind "
            f"({sampler_class.modality}); give --prompt, or --sampler policy."
        )
    reward_names = options.reward or default_rewards(model, sampler_class.modality)
    check_reward_names(reward_names)
    of_rewards = reward_options(options, reward_names)
    models = (options, model, of_rewards, exchange)
    pipeline, rewards = (load or load_models)(*models, modality=sampler_class.modality)
    call, pipeline_call, guidance = resolve_call(options, pipeline)
    # Samplers of other packages may ask nothing of the call.
    own = config.call_arguments() if hasattr(config, "call_arguments") else {}
    cache = None if options.cache is None else put_on_cache(pipeline, options.cache)
    named = ("num_inference_steps", guidance)
    sampler_options = to_dict(config)
    # Micro-batching changes no result, and resuming with less memory must stay possible; but texts
    # that are kept apart from finished ones depend on which those are.
    neutral = () if sampler_options.get("history") == "final" else ("max_rows",)
    decisive = {
        "sampler": options.sampler,
        "options": {name: v for name, v in sampler_options.items() if name not in neutral},
        "model": model,
        "rewards": list(reward_names),
        "reward_options": {name: given for name, given in of_rewards.items() if given},
        "seed": options.seed,
        "steps": pipeline_call.get("num_inference_steps"),
        "guidance_scale": pipeline_call.get(guidance),
        "call": {name: call[name] for name in sorted(call) if name not in named},
        "scheduler": options.scheduler,
        **({} if cache is None else {"cache": cache}),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    return Job(
        sampler_class=sampler_class,
        sampler_options=sampler_options,
        rewards=rewards,
        pipeline=pipeline,
        prompts=prompts,
        seed=options.seed,
        call=call,
        pipeline_call={**pipeline_call, **own} if is_reproducible(sampler_class) else None,
        config=decisive,
        folder=Path(options.output) if options.output else default_folder(decisive, prompts),
        command=command,
        is_streamed=options.stream,
    )


def is_reproducible(sampler_class: Any) -> bool:
    """Whether a sample's seed gives the same sample in a plain pipeline call."""
    # Samplers of other packages may not say; most do nothing but choose.
    return bool(getattr(sampler_class, "is_reproducible", True))


def default_rewards(model: str, modality: str) -> tuple[str, ...]:
    """The reward that fits a model when none is named; texts may go without, actions do."""
    if modality == "action":
        return ()
    if modality != "text":
        return (default_reward(model),)
    return ("countdown",) if model == "countdown-llada" else ()


def default_reward(model: str) -> str:
    """The reward of pictures that fits a model when none is named."""
    from gensift.zoo.catalog import ZOO

    return "shapes-clip" if model in ZOO and model.startswith("shapes-") else "clip-score"


def default_folder(config: Mapping[str, Any], prompts: Sequence[str]) -> Path:
    """A folder for this very command, so that no other command writes into it."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompts[0].lower())[:40].strip("-") or "prompt"
    digits = config_hash({"config": config, "prompts": list(prompts)})[:8]
    return OUTPUTS / f"{config['sampler']}-{slug}-{digits}"


def check_reward_names(names: Sequence[str]) -> None:
    from rewards.registry import REWARDS, load_reward

    # A reward of one's own usually lies where the command is typed; last, so that it hides nothing.
    sys.path.append(os.getcwd())
    for name in names:
        if ":" in name:
            load_reward(name)
        else:
            REWARDS.get(name)


def load_one_reward(name: str, given: Sequence[str], device: str) -> Any:
    """A reward by name, with options given as `key=value`."""
    from gensift.pipelines.loading import resolve_device
    from rewards.registry import load_reward

    check_reward_names([name])
    options = reward_options(GenerateOptions(reward_option=tuple(given)), [name])[name]
    return load_reward(name, device=resolve_device(device), **options)


def load_models(
    options: GenerateOptions,
    model: str,
    of_rewards: Mapping[str, Mapping[str, Any]],
    exchange: Exchange = ALONE,
    *,
    modality: str = "image",
) -> tuple[Any, dict[str, Any]]:
    """The pipeline and the rewards, each where the options want them.

    Raises:
        UnsupportedPipelineError: see `check_modality`.
    """
    judging = _judging_device(options, exchange)
    pipeline = load_model(options, model, exchange)
    check_modality(pipeline, model, modality)
    return pipeline, {
        name: load_reward_on(judging, name, given, is_offloaded=options.reward_offload)
        for name, given in of_rewards.items()
    }


def _judging_device(options: GenerateOptions, exchange: Exchange) -> str:
    judging = own_device(options.reward_device or options.device, exchange)
    check_reward_offload(judging, is_asked=options.reward_offload)
    return judging


def load_model(options: GenerateOptions, model: str, exchange: Exchange = ALONE) -> Any:
    """The pipeline alone, where the options want it."""
    from gensift.pipelines.loading import load_pipeline

    device = own_device(options.device, exchange)
    silence_libraries()
    pipeline = load_pipeline(
        model,
        dtype=options.dtype,
        device=device,
        attention_backend=options.attention_backend,
        scheduler=options.scheduler,
        cpu_offload=options.cpu_offload,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_modality(pipeline: Any, model: str, modality: str) -> None:
    """Refuse to make samples of one kind by a model of another.

    Raises:
        UnsupportedPipelineError: the pipeline writes texts, or plans actions, and samples of
            `modality` are something else.
    """
    from gensift.pipelines.llada.pipeline import LLaDAPipeline
    from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline

    if isinstance(pipeline, LLaDAPipeline) and modality != "text":
        raise UnsupportedPipelineError(
            f"{model} writes texts, and this makes samples of another kind ({modality}); take "
            "--sampler odd or decode, or another model."
        )
    if isinstance(pipeline, DiffusionPolicyPipeline) and modality != "action":
        raise UnsupportedPipelineError(
            f"{model} plans actions of a robot, and this makes samples of another kind "
            f"({modality}); take --sampler policy, or another model."
        )


def put_on_cache(pipeline: Any, spec: str) -> dict[str, Any]:
    """Enable a cache; returns what it decides about the results."""
    from caches.enable import enable_cache

    cache: Any = enable_cache(pipeline, spec)
    return {"name": cache.name, "config": config_hash(to_dict(cache.config))[:16]}


def resolve_call(
    options: GenerateOptions, pipeline: Any
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What this run asks of the pipeline, the whole call, and the keyword that sets guidance."""
    from gensift.pipelines.llada.pipeline import LLaDAPipeline
    from gensift.pipelines.loading import call_defaults
    from samplers.autoregressive.protocol import NextScaleModel
    from samplers.diffusion.guidance import guidance_argument

    known = inspect.signature(type(pipeline).__call__).parameters
    draws_scales = isinstance(pipeline, NextScaleModel)
    if options.steps is not None and draws_scales:
        raise ConfigError(
            f"`--steps` was given, but {type(pipeline).__name__} draws scale by scale and has no "
            "denoising steps; leave it out."
        )
    has_no_denoiser = draws_scales or isinstance(pipeline, LLaDAPipeline)
    guidance = "guidance_scale" if has_no_denoiser else guidance_argument(pipeline)
    own = {"num_inference_steps": options.steps, guidance: options.guidance_scale}
    call = call_arguments(options, known)
    for name in own.keys() & call.keys():
        if own[name] is not None:
            raise ConfigError(f"`{name}` is given by --call and by an option of its own; give one.")
    call |= {name: value for name, value in own.items() if value is not None}
    if "num_videos_per_prompt" in known:
        raise UnsupportedPipelineError(
            f"{type(pipeline).__name__} draws videos, and `generate` writes pictures only; "
            "search it in Python: sampler(pipe, prompts)."
        )
    needs_negative = guidance == "true_cfg_scale" and (options.guidance_scale or 0) > 1
    if needs_negative and "negative_prompt" not in call_defaults(pipeline):
        # Without any negative prompt such pipelines ignore the scale.
        call.setdefault("negative_prompt", " ")
    return call, {**call_defaults(pipeline), **call}, guidance
