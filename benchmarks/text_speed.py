"""How fast the decoding policies are, and how often they agree with decoding without a cache.

    python -m benchmarks.text_speed [--size 200M] [--rounds 3]

On `countdown-llada` (answers of 7 tokens), and on a model of random weights whose answers are
long enough for caches to matter. Temperature 0, so that every policy has one answer; settings are
interleaved in one process and times are medians. Tokens per second count the response alone.
Agreement is the share of response tokens that equal those of the same window and commit rule
without a cache; for the threshold and AdaBlock without a cache, those of one token per step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from matplotlib.figure import Figure

import gensift
from benchmarks.results import FOLDER, publish
from benchmarks.text_models import SIZES, random_pipeline, random_prompt
from gensift.zoo.countdown.split import test_problems
from samplers.text.decode import TextDecode

GEN_LENGTH, BLOCK = 48, 16
THRESHOLD = 0.9
ROWS = 1
FAST = ", threshold"
EQUAL = 0.97
"""Share of a speed that counts as the same one."""
DELIMITER_EVERY = 16
"""One token in so many ends a block of the model of random weights."""
GAMMAS = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Setting:
    """One combination of policies.

    Attributes:
        name: for tables.
        options: of `TextDecode`.
        call: arguments of the call, besides those of the task.
        reference: name of the setting that it should agree with.
    """

    name: str
    options: Mapping[str, Any]
    call: Mapping[str, Any] = field(default_factory=dict)
    reference: str = "no cache"


@dataclass(frozen=True)
class Task:
    """What settings depend on: length of blocks, and tokens that end AdaBlock's."""

    block: int
    delimiters: tuple[int, ...]


def settings(task: Task) -> tuple[Setting, ...]:
    """What is compared: caches with an even quota and with a threshold, and AdaBlock."""
    sure = {"threshold": THRESHOLD}
    adablock = {"window": "adablock", "adablock": {"delimiters": list(task.delimiters)}}
    elastic: dict[str, Any] = {
        f"elastic, gamma {gamma:g}": {"kv": "elastic", "elastic": {"gamma": gamma}}
        for gamma in GAMMAS
    }
    elastic["elastic, full pass every 8"] = {"kv": "elastic", "elastic": {"refresh_every": 8}}
    elastic["elastic, gamma 0.9, sliding"] = {
        "kv": "elastic",
        "window": "sliding",
        "sliding_length": task.block,
    }
    caches: dict[str, Mapping[str, Any]] = {
        "no cache": {},
        "prefix": {"kv": "prefix"},
        "dual": {"kv": "dual"},
        **elastic,
    }
    even = [Setting(name, options) for name, options in caches.items()]
    fast = [
        Setting(f"{name}{FAST}", options, sure, f"no cache{FAST}")
        for name, options in caches.items()
    ]
    windows = [
        Setting(f"adablock{FAST}", adablock, sure, f"no cache{FAST}"),
        Setting(f"adablock, dual{FAST}", adablock | {"kv": "dual"}, sure, f"adablock{FAST}"),
    ]
    return (*even, *fast, *windows)


def measure(
    pipe: Any, prompts: Sequence[str], call: Mapping[str, Any], task: Task, rounds: int
) -> list[dict[str, Any]]:
    """A row per setting."""
    chosen = settings(task)
    outputs: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {setting.name: [] for setting in chosen}
    for _ in range(rounds):
        for setting in chosen:
            sampler = TextDecode(num_candidates=1, **setting.options)
            start = time.perf_counter()
            outputs[setting.name] = sampler(pipe, prompts, **{**call, **setting.call})
            seconds[setting.name].append(time.perf_counter() - start)
    words = {name: [text.split() for text in output.samples] for name, output in outputs.items()}
    return [
        _row(setting, outputs[setting.name].cost, seconds[setting.name], words)
        for setting in chosen
    ]


def _row(
    setting: Setting,
    cost: Any,
    seconds: Sequence[float],
    words: Mapping[str, Sequence[Sequence[str]]],
) -> dict[str, Any]:
    own = words[setting.name]
    median = statistics.median(seconds)
    return {
        "name": setting.name,
        "forward_passes_per_text": cost.nfe / len(own),
        "positions_computed_per_text": cost.tokens / len(own),
        "seconds": median,
        "response_tokens_per_second": sum(map(len, own)) / median,
        "agrees_with": setting.reference,
        "agreement": agreement(own, words[setting.reference]),
        "agreement_with_no_cache": agreement(own, words["no cache"]),
    }


def agreement(own: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> float:
    """Share of the words of `other` that stand at the same place in `own`."""
    same = [
        a == b for left, right in zip(own, other, strict=True) for a, b in zip_longest(left, right)
    ]
    return sum(same) / len(same)


def equal_speed(rows: Sequence[Mapping[str, Any]], *, is_fast: bool) -> dict[str, Any]:
    """The elastic cache against the dual one: the best agreement of those at least as fast."""
    suffix = FAST if is_fast else ""
    dual = next(row for row in rows if row["name"] == f"dual{suffix}")
    incumbents = [
        row
        for row in rows
        if row["name"].startswith("elastic")
        and row["name"].endswith(FAST) == is_fast
        and row["response_tokens_per_second"] >= EQUAL * dual["response_tokens_per_second"]
    ]
    best = max(incumbents, key=lambda row: row["agreement"], default=None)
    return {
        "dual": dual,
        "best_elastic_at_least_as_fast": best,
        "elastic_is_better": best is not None and best["agreement"] > dual["agreement"],
    }


def plot(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Agreement against speed, a panel per model."""
    figure = Figure(figsize=(5.5 * len(found), 4.2), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    kinds = {"no cache": "o", "prefix": "s", "dual": "^", "elastic": "D", "adablock": "P"}
    for axis, (model, rows) in zip(panels, found.items(), strict=True):
        for kind, marker in kinds.items():
            for is_fast, style in ((False, "none"), (True, "full")):
                own = [
                    row
                    for row in rows
                    if row["name"].startswith(kind) and row["name"].endswith(FAST) == is_fast
                ]
                label = f"{kind}{FAST if is_fast else ''}"
                axis.plot(
                    [row["response_tokens_per_second"] for row in own],
                    [100 * row["agreement_with_no_cache"] for row in own],
                    marker,
                    fillstyle=style,
                    color=f"C{list(kinds).index(kind)}",
                    label=label,
                )
        axis.set_title(model)
        axis.set_xlabel("response tokens per second")
        axis.set_ylabel("agreement with no cache, one token per step, %")
        axis.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=7)
    figure.savefig(FOLDER / "text_speed.png", dpi=130)


def main() -> None:
    """Measure both models and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="200M")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    zoo: Any = gensift.load_pipeline("countdown-llada", device="cpu")
    prompts = [problem.text for problem in test_problems()[:128]]
    bracket = zoo.tokenizer.convert_tokens_to_ids(")")
    call = {"temperature": 0.0, "block_length": 4}
    found = {"countdown-llada": measure(zoo, prompts, call, Task(4, (bracket,)), arguments.rounds)}
    made = random_pipeline(arguments.size)
    call = {
        "temperature": 0.0,
        "gen_length": GEN_LENGTH,
        "num_inference_steps": GEN_LENGTH,
        "block_length": BLOCK,
    }
    prompts = [random_prompt(arguments.size, row) for row in range(ROWS)]
    delimiters = range(0, SIZES[arguments.size]["vocab_size"], DELIMITER_EVERY)
    found[f"random weights, {arguments.size}"] = measure(
        made, prompts, call, Task(BLOCK, tuple(delimiters)), arguments.rounds
    )
    plot(found)
    publish(
        "text_speed",
        {
            "models": found,
            "elastic_against_dual": {
                name: [equal_speed(rows, is_fast=fast) for fast in (False, True)]
                for name, rows in found.items()
            },
        },
    )


if __name__ == "__main__":
    main()
