"""From options to a job that is ready to run: sampler, rewards, pipeline, folder."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from apps.console import silence_libraries
from apps.jobs.devices import check_reward_offload, load_reward_on, own_device
from apps.jobs.job import Job, default_folder
from apps.jobs.options import GenerateOptions, reward_options, sampler_fields
from apps.jobs.prompt_files import PromptRow
from apps.jobs.sampler_classes import sampler_class
from apps.modalities.call import ResolvedCall
from apps.modalities.registry import MODALITIES, PICTURES, AnyModality, check_pipeline
from gensift.config import config_hash, from_dict, to_dict
from gensift.errors import ConfigError
from gensift.protocols import JsonObject, Pipeline
from samplers.exchange import ALONE, Exchange

if TYPE_CHECKING:
    from rewards.protocol import Reward

Rewards: TypeAlias = "dict[str, Reward]"
RewardOptions: TypeAlias = Mapping[str, JsonObject]
"""Per reward the options of its loader."""


class LoadModels(Protocol):
    """What loads pipeline and rewards: `load_models`, or what keeps them between jobs."""

    def __call__(
        self,
        options: GenerateOptions,
        model: str,
        of_rewards: RewardOptions,
        exchange: Exchange = ...,
        *,
        modality: AnyModality | None = ...,
    ) -> tuple[Pipeline, Rewards]:
        """See `load_models`."""
        ...


def prepare(
    options: GenerateOptions,
    prompts: Sequence[str],
    command: str,
    exchange: Exchange = ALONE,
    load: LoadModels | None = None,
    rows: Sequence[PromptRow] = (),
) -> Job:
    """Check everything that can be checked, cheap things first, and load what is needed.

    With other processes in `exchange`, each loads onto a GPU of its own, unless told otherwise.
    `load` stands in for `load_models` where models are kept from one job to the next. `rows` are
    the prompts with what is set for each alone, if anything is.

    Raises:
        GensiftError: at the first thing that is wrong.
    """
    cls = sampler_class(options.sampler)
    config = from_dict(cls.config_class, sampler_fields(options, cls.config_class))
    model = options.model or cls.default_model
    modality = MODALITIES.get(cls.modality)
    modality.check_options(options)
    reward_names = options.reward or modality.default_rewards(model)
    check_reward_names(reward_names)
    of_rewards = reward_options(options, reward_names)
    if options.cache is not None:
        check_cache(options.cache)
    load = load or load_models
    pipeline, rewards = load(options, model, of_rewards, exchange, modality=modality)
    resolved = modality.resolve_call(options, pipeline)
    _check_rows(rows, pipeline)
    # A config may set arguments of the plain call itself; most ask nothing of it.
    own = config.call_arguments() if hasattr(config, "call_arguments") else {}
    cache = None if options.cache is None else put_on_cache(pipeline, options.cache)
    sampler_options = to_dict(config)
    decisive = {
        "sampler": options.sampler,
        "options": _decisive_options(sampler_options),
        "model": model,
        "rewards": list(reward_names),
        "reward_options": {name: given for name, given in of_rewards.items() if given},
        "seed": options.seed,
        **_decisive_call(resolved),
        "scheduler": options.scheduler,
        **({} if cache is None else {"cache": cache}),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    return Job(
        sampler_class=cls,
        modality=modality,
        sampler_options=sampler_options,
        rewards=rewards,
        pipeline=pipeline,
        prompts=prompts,
        seed=options.seed,
        call=resolved.call,
        pipeline_call={**resolved.pipeline_call, **own} if cls.is_reproducible else None,
        config=decisive,
        folder=Path(options.output) if options.output else default_folder(decisive, prompts, rows),
        command=command,
        is_streamed=options.stream,
        rows=rows,
    )


def _check_rows(rows: Sequence[PromptRow], pipeline: Pipeline) -> None:
    """Refuse arguments of single prompts that the pipeline's call does not take."""
    known = inspect.signature(type(pipeline).__call__).parameters
    for row in rows:
        if unknown := [name for name in row.call if name not in known]:
            raise ConfigError(
                f"Prompt {row.text!r} sets {', '.join(unknown)}, which {type(pipeline).__name__} "
                "does not take; leave out that column."
            )


def _decisive_options(options: JsonObject) -> JsonObject:
    # Micro-batching changes no result, and resuming with less memory must stay possible; but texts
    # that are kept apart from finished ones depend on which those are.
    neutral = () if options.get("history") == "final" else ("max_rows",)
    return {name: value for name, value in options.items() if name not in neutral}


def _decisive_call(resolved: ResolvedCall) -> JsonObject:
    call, whole, guidance = resolved
    named = ("num_inference_steps", guidance)
    return {
        "steps": whole.get("num_inference_steps"),
        "guidance_scale": whole.get(guidance),
        "call": {name: call[name] for name in sorted(call) if name not in named},
    }


def default_reward(model: str) -> str:
    """The reward of pictures that fits a model when none is named."""
    (name,) = MODALITIES.get(PICTURES).default_rewards(model)
    return name


def check_reward_names(names: Sequence[str]) -> None:
    """Refuse rewards that are not there, without loading any weights.

    Raises:
        GensiftError: one is not registered, or cannot be imported.
    """
    from rewards.registry import REWARDS, load_reward

    # A reward of one's own usually lies where the command is typed; last, so that it hides nothing.
    sys.path.append(os.getcwd())
    for name in names:
        if ":" in name:
            load_reward(name)
        else:
            REWARDS.get(name)


def load_one_reward(name: str, given: Sequence[str], device: str) -> Reward:
    """A reward by name, with options given as `key=value`."""
    from gensift.pipelines.loading import resolve_device
    from rewards.registry import load_reward

    check_reward_names([name])
    options = reward_options(GenerateOptions(reward_option=tuple(given)), [name])[name]
    return load_reward(name, device=resolve_device(device), **options)


def load_models(
    options: GenerateOptions,
    model: str,
    of_rewards: RewardOptions,
    exchange: Exchange = ALONE,
    *,
    modality: AnyModality | None = None,
) -> tuple[Pipeline, Rewards]:
    """The pipeline and the rewards, each where the options want them.

    Args:
        options: of the command.
        model: zoo name, folder or hub id.
        of_rewards: by name of the reward, the options of its loader.
        exchange: the processes of the run.
        modality: the kind of samples that the model shall make; pictures unless told otherwise.

    Raises:
        UnsupportedPipelineError: the model makes samples of another kind.
    """
    modality = modality or MODALITIES.get(PICTURES)
    scoring = _scoring_device(options, exchange)
    modality.check_model(model)
    _check_reward_weights(model, of_rewards)
    pipeline = load_model(options, model, exchange, modality)
    check_pipeline(pipeline, model, modality)
    return pipeline, {
        name: load_reward_on(scoring, name, given, is_offloaded=options.reward_offload)
        for name, given in of_rewards.items()
    }


def _check_reward_weights(model: str, of_rewards: RewardOptions) -> None:
    """Refuse a reward that cannot be had, before any weights are read or fetched."""
    from gensift.zoo.catalog import ZOO
    from rewards.registry import check_reward

    if model in ZOO:
        return  # quickly loaded, and the first to be refused where it does not fit
    for name, given in of_rewards.items():
        check_reward(name, given)


def _scoring_device(options: GenerateOptions, exchange: Exchange) -> str:
    scoring = own_device(options.reward_device or options.device, exchange)
    check_reward_offload(scoring, is_asked=options.reward_offload)
    return scoring


def load_model(
    options: GenerateOptions, model: str, exchange: Exchange, modality: AnyModality
) -> Pipeline:
    """The pipeline alone, where the options want it."""
    device = own_device(options.device, exchange)
    silence_libraries()
    return modality.load_pipeline(
        model,
        dtype=options.dtype,
        device=device,
        attention_backend=options.attention_backend,
        scheduler=options.scheduler,
        cpu_offload=options.cpu_offload,
    )


def check_cache(spec: str) -> None:
    """Refuse a cache profile that cannot be read, before any model is."""
    from caches.enable import check_cache as check_profile

    check_profile(spec)


def put_on_cache(pipeline: Pipeline, spec: str) -> JsonObject:
    """Enable a cache; returns what it decides about the results."""
    from caches.enable import enable_cache

    cache: Any = enable_cache(pipeline, spec)
    return {"name": cache.name, "config": config_hash(to_dict(cache.config))[:16]}


def resolve_call(
    options: GenerateOptions, pipeline: Pipeline, modality: AnyModality | None = None
) -> ResolvedCall:
    """What a command asks of the call of a pipeline, of pictures unless told otherwise."""
    return (modality or MODALITIES.get(PICTURES)).resolve_call(options, pipeline)
