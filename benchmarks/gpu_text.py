"""Text decoding with a model as large as LLaDA-8B, for `benchmarks.gpu`.

* kv: response tokens per second, work and peak memory of every KV policy, with an even quota of one
  token per step and with a threshold;
* diversity: time and peak of ODD over those of plain decoding, 16 texts of 64 tokens in 32 steps,
  the published setting.

Weights are random, so there is no figure of quality, and a threshold is passed by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.text_models import random_pipeline, random_prompt
from benchmarks.timing import Deadline, interleaved, ratio, summary, within_limits
from samplers.text.decode import TextDecode
from samplers.text.odd import ODD

NAMES = ("llada",)
"""What `--sizes` calls these models."""
ROWS = 4
LENGTHS = {"8B": (256, 32), "tiny": (24, 8)}
"""Tokens of a text and of a block."""
THRESHOLD = 0.9
DIVERSE_ROWS, DIVERSE_LENGTH, DIVERSE_STEPS = 16, 64, 32
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "prefix": {"kv": "prefix"},
    "dual": {"kv": "dual"},
    "elastic": {"kv": "elastic"},
}


def measure(
    *, is_tiny: bool, device: str, dtype: torch.dtype, rounds: int, deadline: Deadline
) -> dict[str, Any]:
    """The figures of one model."""
    size = "tiny" if is_tiny else "8B"
    pipe = random_pipeline(size, device, dtype)
    prompts = [random_prompt(size, row) for row in range(ROWS)]
    found: dict[str, Any] = {
        "denoiser": type(pipe.transformer).__name__,
        "denoiser_parameters": sum(p.numel() for p in pipe.transformer.parameters()),
        "dtype": str(dtype).removeprefix("torch."),
        "weights": "random",
    }
    length, block = LENGTHS[size]
    call = {"gen_length": length, "num_inference_steps": length, "block_length": block}
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "kv": lambda: kv(pipe, prompts, device, rounds, call),
        "kv_threshold": lambda: kv(pipe, prompts, device, rounds, call | {"threshold": THRESHOLD}),
        "diversity": lambda: diversity(pipe, prompts[0], device, rounds),
    }
    for name, section in sections.items():
        found[name] = within_limits(section, deadline)
    return found


def kv(
    pipe: Any, prompts: list[str], device: str, rounds: int, call: Mapping[str, Any]
) -> dict[str, Any]:
    """Every policy on the same prompts, greedy."""
    samplers = {name: TextDecode(num_candidates=1, **o) for name, o in POLICIES.items()}
    runs: dict[str, Callable[[], Any]] = {
        name: lambda sampler=sampler: sampler(pipe, prompts, **call).cost
        for name, sampler in samplers.items()
    }
    timings = interleaved(runs, rounds, device, warm_ups=1)
    found: dict[str, Any] = {"rows": len(prompts), **call}
    for name in runs:
        own = summary(timings[name])
        cost = timings[name][0].result
        found[name] = own | {
            "response_tokens_per_second": len(prompts) * call["gen_length"] / own["seconds"],
            "forward_passes_per_text": cost.nfe / len(prompts),
            "positions_computed": cost.tokens,
        }
    return found


def diversity(pipe: Any, prompt: str, device: str, rounds: int) -> dict[str, Any]:
    """ODD over plain decoding."""
    arguments = {
        "gen_length": DIVERSE_LENGTH,
        "num_inference_steps": DIVERSE_STEPS,
        "temperature": 1.0,
    }
    samplers = {
        "plain": TextDecode(num_candidates=DIVERSE_ROWS),
        "odd": ODD(num_candidates=DIVERSE_ROWS),
    }
    runs: dict[str, Callable[[], Any]] = {
        name: lambda sampler=sampler: sampler(pipe, prompt, **arguments).cost
        for name, sampler in samplers.items()
    }
    timings = interleaved(runs, rounds, device, warm_ups=1)
    seconds = {name: [timing.seconds for timing in timings[name]] for name in runs}
    return {
        "texts": DIVERSE_ROWS,
        **{name: summary(timings[name]) for name in runs},
        "odd_over_plain": ratio(seconds["odd"], seconds["plain"]),
    }
