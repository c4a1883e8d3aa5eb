"""What a visitor asks for: checked against the limits, then read as options of `generate`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from apps.jobs.options import GenerateOptions, sampler_fields
from apps.jobs.prompts import gather_prompts
from apps.jobs.sampler_classes import sampler_class
from apps.web.models import Models
from apps.web.options import AppOptions
from gensift.config import OptionRow, check, describe, from_dict, option, to_dict
from gensift.conversion import is_union, strict_json
from gensift.errors import ConfigError
from gensift.protocols import JsonObject
from samplers.base import Plan

TOKENS_PER_ROW = 1000
"""Tokens that count as much as a denoiser row, where `max_rows` bounds the work."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request for samples; fields mean what the options of `generate` mean."""

    sampler: str = option("ttsnap", help="How to search.")
    prompt: str = option("", help="Text to generate from.")
    model: str | None = option(None, help="Model; by default the zoo model of the sampler.")
    reward: str | None = option(None, help="What to judge by; by default what fits the model.")
    num_candidates: int | None = option(None, minimum=1, help="Candidates.")
    steps: int | None = option(None, minimum=1, help="Denoising steps.")
    guidance_scale: float | None = option(None, minimum=0, help="Strength of guidance.")
    width: int | None = option(None, minimum=8, help="Width of the picture, pixels.")
    height: int | None = option(None, minimum=8, help="Height of the picture, pixels.")
    seed: int = option(0, minimum=0, maximum=2**63 - 1, help="Number all randomness derives from.")
    cache: str | None = option(None, help="Feature cache: ertacache or bac.")
    options: JsonObject = option({}, help="Options of the sampler, by name.")

    def __post_init__(self) -> None:
        check(self)


def read_request(given: JsonObject, limits: AppOptions, models: Models) -> Request:
    """Check what was asked for; nothing heavy is loaded.

    Raises:
        GensiftError: a value is of the wrong type, out of range or not offered here.
    """
    request = from_dict(Request, {k: v for k, v in given.items() if v is not None})
    _check_sizes(request, limits)
    gather_prompts([request.prompt], None)
    sampler = sampler_class(request.sampler)
    models.check(request.model or sampler.default_model)
    if request.reward is not None:
        models.check_reward(request.reward)
    if request.cache is not None:
        check_cache_name(request.cache)
    config = from_dict(
        sampler.config_class,
        sampler_fields(generate_options(request, limits), sampler.config_class),
    )
    refuse_paths(config, models)
    # Also where they came among the options of the sampler.
    _check_bounds(config, {"num_candidates": limits.max_candidates})
    is_timed = getattr(config, "budget_unit", None) == "seconds"
    if is_timed and (config.budget or 0) > limits.max_seconds:
        raise ConfigError(
            f"`budget` is {config.budget:g} s; at most {limits.max_seconds} are allowed here."
        )
    return request


def generate_options(request: Request, limits: AppOptions) -> GenerateOptions:
    """The same as options of the `generate` command."""
    sides = {"width": request.width, "height": request.height}
    return GenerateOptions(
        sampler=request.sampler,
        prompt=(request.prompt,),
        model=request.model,
        reward=() if request.reward is None else (request.reward,),
        num_candidates=request.num_candidates,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        call=tuple(f"{name}={side}" for name, side in sides.items() if side is not None),
        seed=request.seed,
        cache=request.cache,
        options=request.options,
        device=limits.device,
        dtype=limits.dtype,
    )


def command_line(request: Request) -> str:
    """The command that does the same."""
    words = ["generate", "--sampler", request.sampler, "--prompt", request.prompt]
    single = {
        "--model": request.model,
        "--reward": request.reward,
        "-n": request.num_candidates,
        "--steps": request.steps,
        "--guidance-scale": request.guidance_scale,
        "--cache": request.cache,
        "--seed": request.seed or None,
    }
    for name, value in single.items():
        words += [] if value is None else [name, str(value)]
    for name in ("width", "height"):
        side = getattr(request, name)
        words += [] if side is None else ["--call", f"{name}={side}"]
    for name, value in _flat(request.options):
        words += ["-o", f"{name}={value if isinstance(value, str) else strict_json(value)}"]
    return shlex.join(words)


def check_plan(plan: Plan, limits: AppOptions) -> None:
    """Refuse more work than is allowed here.

    Raises:
        ConfigError: too many candidates, denoiser rows or tokens are planned.
    """
    work = max(plan.cost.nfe, -(-plan.cost.tokens // TOKENS_PER_ROW))
    found = {
        "candidates": (plan.num_candidates, limits.max_candidates),
        "denoiser rows (or thousands of tokens)": (work, limits.max_rows),
    }
    for what, (asked, allowed) in found.items():
        if asked > allowed:
            raise ConfigError(
                f"The request plans {asked} {what}; at most {allowed} are allowed here. Ask for "
                "fewer candidates, steps or rounds."
            )


def check_cache_name(name: str) -> str:
    """Return `name`; files are not taken, whoever is asking.

    Raises:
        ConfigError: it is no name of a cache.
    """
    from caches.registry import CACHES

    if name not in CACHES.names():
        raise ConfigError(
            f"Cache {name[:60]!r} is not offered here. Offered: {', '.join(CACHES.names())}."
        )
    return name


def check_prompt(prompt: str, limits: AppOptions) -> None:
    """Refuse a prompt that is too long.

    Raises:
        ConfigError: it is.
    """
    if len(prompt) > limits.max_prompt:
        raise ConfigError(
            f"The prompt has {len(prompt)} characters; at most {limits.max_prompt} are allowed "
            "here. Shorten it."
        )


def _check_sizes(request: Request, limits: AppOptions) -> None:
    check_prompt(request.prompt, limits)
    bounds = {
        "num_candidates": limits.max_candidates,
        "steps": limits.max_steps,
        "width": limits.max_side,
        "height": limits.max_side,
    }
    _check_bounds(request, bounds)


def _check_bounds(given: object, bounds: Mapping[str, int]) -> None:
    problems = [
        f"`{name}` is {value}; at most {most} is allowed here"
        for name, most in bounds.items()
        if (value := getattr(given, name, None)) is not None and value > most
    ]
    if problems:
        raise ConfigError.from_problems("The request", problems)


def refuse_paths(config: object, models: Models) -> None:
    """Refuse texts that could name a file or a model: only defaults and what is offered pass."""
    values = dict(_flat(to_dict(config)))
    for row in describe(type(config)):
        value = values.get(row.name)
        if is_free_text(row) and value not in (row.default, *models.names):
            raise ConfigError(
                f"`{row.name}` is {str(value)[:60]!r}, which is not offered here; leave it out."
            )


def is_free_text(row: OptionRow) -> bool:
    """Whether an option takes any text, which may name a file or a model."""
    members = get_args(row.annotation) if is_union(row.annotation) else (row.annotation,)
    return str in members and row.choices is None


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
