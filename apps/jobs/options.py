"""What `generate` can be told, on the command line or in a config file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from apps.commands.command_line import flag, is_repeatable
from gensift.config import check, describe, from_dict, load_file, option, parse_overrides
from gensift.errors import ConfigError, nearest_hint
from gensift.protocols import JsonObject

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Options of `generate`; in a config file they have the same names."""

    sampler: str = option("ttsnap", help="How to search; --list-samplers shows all.")
    prompt: tuple[str, ...] = option((), help="Text to generate from; repeat it for several.")
    prompts: str | None = option(
        None,
        help="File of prompts: .txt (one per line, # for comments), .csv, .tsv, .json or .jsonl "
        "(prompt, text or caption; seed, negative_prompt, width, height for a prompt alone).",
    )
    prompt_column: str | None = option(
        None, help="Column or key of --prompts that holds them, where it has another name."
    )
    task: tuple[str, ...] = option(
        (), help="Task of a robot, for the sampler policy; repeat it for several."
    )
    model: str | None = option(
        None, help="Zoo name, folder or hub id; by default the zoo model of the sampler."
    )
    reward: tuple[str, ...] = option(
        (),
        help="What to judge by: a name (--list-rewards) or module:function; several are combined "
        "by rank sum. By default shapes-clip for the shapes models, countdown for countdown-llada, "
        "else clip-score for pictures and nothing for texts.",
    )
    reward_option: tuple[str, ...] = option(
        (),
        help="Option of a reward as key=value, such as model=ViT-B-32; with several rewards as "
        "reward:key=value.",
    )
    cache: str | None = option(
        None,
        help="Feature cache that saves denoiser work: a profile of gensift calibrate, or ertacache "
        "for the zoo's own.",
    )
    num_candidates: int | None = option(None, minimum=1, help="Candidates per prompt.")
    budget: str | float | None = option(
        None,
        help="Most that one prompt may cost, instead of a number of candidates: 2000 or 2000nfe, "
        "3e12flops, 60s.",
    )
    outputs_per_prompt: int | None = option(
        None,
        minimum=1,
        help="Samples kept per prompt, best first; by default one picture, or all texts.",
    )
    stream: bool = option(False, help="Show texts while they form.")
    steps: int | None = option(
        None,
        minimum=1,
        help="Denoising steps; by default what the model asks for. Models that draw scale by scale "
        "have none.",
    )
    guidance_scale: float | None = option(
        None, minimum=0, help="Strength of guidance; by default what the model asks for."
    )
    call: tuple[str, ...] = option(
        (),
        help="Argument of the pipeline's own call as key=value, such as height=768 or "
        "negative_prompt=blurry.",
    )
    scheduler: str | None = option(
        None,
        help="Solver in place of the model's own, such as EulerAncestralDiscreteScheduler; "
        "resampling searches need a stochastic one.",
    )
    seed: int = option(0, minimum=0, help="Number that all randomness derives from.")
    output: str | None = option(
        None, help="Run folder; by default one in outputs/ named after the command."
    )
    dtype: Dtype = option(
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="float32, bfloat16, float16, or auto: float32 on a CPU, bfloat16 on a GPU.",
    )
    device: str = option("auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU when there is one.")
    reward_device: str | None = option(
        None, help="Where rewards judge, such as cpu or cuda:1; by default as --device."
    )
    reward_offload: bool = option(
        False, help="Keep rewards on the CPU while they do not judge; frees GPU memory."
    )
    attention_backend: str | None = option(
        None, help="Attention that diffusers shall use, such as native, flash or xformers."
    )
    cpu_offload: bool = option(False, help="Keep each part on the CPU while it is not in use.")
    max_rows: int | None = option(
        None, minimum=1, help="Most denoiser rows at a time; lower it when memory runs out."
    )
    override: tuple[str, ...] = option(
        (), help="Option of the sampler as key=value; --list-samplers shows them."
    )
    options: JsonObject = option({}, help="Options of the sampler, in a config file.")

    def __post_init__(self) -> None:
        check(self, self._problems())

    def _problems(self) -> list[str]:
        twice = sorted({name for name in self.reward if self.reward.count(name) > 1})
        return [f"reward {name!r} is given twice; give it once" for name in twice]


PANELS = {
    "What to make": (
        "prompt",
        "prompts",
        "prompt_column",
        "task",
        "model",
        "steps",
        "guidance_scale",
        "scheduler",
        "cache",
        "call",
        "seed",
    ),
    "How to search": (
        "sampler",
        "reward",
        "reward_option",
        "num_candidates",
        "budget",
        "outputs_per_prompt",
        "override",
    ),
    "How to run": (
        "output",
        "stream",
        "device",
        "reward_device",
        "reward_offload",
        "dtype",
        "max_rows",
        "attention_backend",
        "cpu_offload",
    ),
}
NAMES = {"num_candidates": ("--num-candidates", "-n"), "override": ("--option", "-o")}

# Two ways to say the same thing: one of them on the command line replaces both in the file.
_ALTERNATIVES = (("num_candidates", "budget"), ("prompt", "prompts"))


def read_options(given: Mapping[str, Any], config_file: Path | None) -> GenerateOptions:
    """Merge the options of the command line over those of a config file.

    Raises:
        ConfigError: naming every option that is unknown or out of range.
    """
    in_file = _read_file(config_file) if config_file is not None else {}
    for names in _ALTERNATIVES:
        if any(name in given for name in names):
            in_file = {name: value for name, value in in_file.items() if name not in names}
    try:
        return from_dict(GenerateOptions, {**in_file, **given})
    except ConfigError as error:
        source = f"generate, with {config_file}" if config_file is not None else "generate"
        raise ConfigError.from_problems(source, error.problems) from error


def _read_file(path: Path) -> JsonObject:
    content = {key.replace("-", "_"): value for key, value in load_file(path).items()}
    repeatable = {row.name for row in describe(GenerateOptions) if is_repeatable(row)}
    return {
        key: [value] if key in repeatable and isinstance(value, str) else value
        for key, value in content.items()
    }


def sampler_fields(options: GenerateOptions, config_class: type[object]) -> JsonObject:
    """Return what `options` set in the sampler's own config.

    Raises:
        ConfigError: if a `key=value` is malformed or says again what another option says.
    """
    overrides = parse_overrides(options.override, config_class)
    named = _named_fields(options)
    for field in named.keys() & overrides.keys():
        raise ConfigError(
            f"`{field}` is given both by `-o` and by an option of its own "
            f"({', '.join(flag(name) for name in _ORIGINS[field])}); give it once."
        )
    return {**options.options, **overrides, **named}


_ORIGINS = {
    "num_candidates": ("num_candidates",),
    "num_outputs": ("outputs_per_prompt",),
    "max_rows": ("max_rows",),
    "budget": ("budget",),
    "budget_unit": ("budget",),
}


# Settled by the search itself or by an option of their own, by any pipeline's name for it.
_OWN_OPTIONS = {
    "prompt": "--prompt",
    "num_inference_steps": "--steps",
    "generator": "--seed",
    "num_images_per_prompt": "--num-candidates",
    "num_videos_per_prompt": "--num-candidates",
    "num_texts_per_prompt": "--num-candidates",
    "max_rows": "--max-rows",
}
_SETTLED = ("latents", "output_type", "return_dict", "callback_on_step_end")


def call_arguments(options: GenerateOptions, allowed: Iterable[str]) -> JsonObject:
    """Return what `--call` sets; values are JSON (768, true, null) or else text.

    Raises:
        ConfigError: if an entry is malformed, given twice, or not among the `allowed` arguments.
    """
    known = [name for name in allowed if name not in {*_OWN_OPTIONS, *_SETTLED, "self"}]
    found: JsonObject = {}
    problems = []
    for entry in options.call:
        name, equals, text = entry.partition("=")
        if not equals:
            problems.append(f"`--call {entry}` has no value; write key=value")
        elif name in _OWN_OPTIONS:
            problems.append(f"`--call {name}` has an option of its own; use {_OWN_OPTIONS[name]}")
        elif name not in known:
            hint = nearest_hint(name, known)
            problem = f"`--call {name}` is no argument of this pipeline's call.{hint}"
            problems.append(problem.rstrip("."))
        elif name in found:
            problems.append(f"`--call {name}` is given twice; give it once")
        else:
            found[name] = _json_or_text(text)
    if problems:
        raise ConfigError.from_problems("generate", problems)
    return found


def reward_options(options: GenerateOptions, names: Sequence[str]) -> dict[str, JsonObject]:
    """Return what `--reward-option` sets, per reward of `names`; values as in `call_arguments`.

    Raises:
        ConfigError: if an entry is malformed, given twice, or not of one of the rewards.
    """
    found: dict[str, JsonObject] = {name: {} for name in names}
    problems = []
    for entry in options.reward_option:
        target, equals, text = entry.partition("=")
        name, colon, key = target.rpartition(":")
        if not colon and len(names) == 1:
            name = names[0]
        if not equals or not key:
            problems.append(f"`--reward-option {entry}` is no key=value")
        elif name not in found:
            problems.append(
                f"`--reward-option {entry}` names no reward of this run; write it as "
                f"{names[0]}:{key}={text}"
            )
        elif key in found[name]:
            problems.append(f"`--reward-option {target}` is given twice; give it once")
        else:
            found[name][key] = _json_or_text(text)
    if problems:
        raise ConfigError.from_problems("generate", problems)
    return found


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _named_fields(options: GenerateOptions) -> JsonObject:
    fields: JsonObject = {
        "num_candidates": options.num_candidates,
        "num_outputs": options.outputs_per_prompt,
        "max_rows": options.max_rows,
    }
    if options.budget is not None:
        fields["budget"], fields["budget_unit"] = parse_budget(options.budget)
    return {name: value for name, value in fields.items() if value is not None}


_UNITS: dict[str, Sequence[str]] = {
    "nfe": ("nfe",),
    "flops": ("flops", "flop"),
    "seconds": ("s", "sec", "seconds"),
}
_BUDGET = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_budget(text: str | float) -> tuple[float, str | None]:
    """Read `2000`, `2000nfe`, `3e12flops` or `60s` as an amount and a unit (None: not said).

    Raises:
        ConfigError: if it is no positive amount of a known unit.
    """
    match = _BUDGET.fullmatch(str(text))
    units = {short: unit for unit, shorts in _UNITS.items() for short in shorts}
    try:
        if match is None:
            raise ValueError
        amount, unit = float(match[1]), match[2].lower()
        if not (0 < amount < math.inf) or unit not in {"", *units}:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"`--budget` is {str(text)!r}; give a positive amount with or without a unit: 2000, "
            "2000nfe, 3e12flops or 60s."
        ) from None
    return amount, units.get(unit)
