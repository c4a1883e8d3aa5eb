"""How long the sections of `benchmarks.gpu` take, and those about the machinery."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from benchmarks import gpu_next_scale as next_scale
from benchmarks.backends import compared_backends
from benchmarks.gpu_budget import contenders, search_cost_of
from benchmarks.gpu_caches import ROUND_COSTS, rows_of
from benchmarks.gpu_subject import PROMPT, SHORT_STEPS, Extent, Subject
from benchmarks.overhead import DenoiserClock
from benchmarks.timing import interleaved, ratio, summary
from gensift.denoising.bound import BoundPipeline
from gensift.errors import DeviceError
from gensift.randomness import candidate_seeds
from samplers.diffusion.preview import Previewer
from samplers.diffusion.schedule import UnitCosts

ATTENTION_CANDIDATES = 4


def seconds_per_round(
    part: str, subject: Subject, extent: Extent, found: dict[str, UnitCosts]
) -> float:
    """About how long one round of a section takes, with its share of the warm-up."""
    if part.startswith("next_scale."):
        return next_scale.seconds_per_round(part, subject, found)
    step = found["seconds"].step
    whole, short = subject.steps * step, SHORT_STEPS * step
    if part in ROUND_COSTS:
        return ROUND_COSTS[part] * rows_of(subject, extent) * whole
    if part == "equal_budget":
        chosen = contenders(found, extent.budget, subject.steps)
        costs = [search_cost_of(*key, subject.steps, found)["seconds"] for key in chosen if key[1]]
        return sum(costs) * (1 + SHORT_STEPS / subject.steps)
    return {
        "row_gate": 2 * extent.candidates * whole,
        # Small batches use a GPU badly: twice the time per row, and a warm-up round.
        "micro_batches": 4 * short * extent.candidates * len(_row_limits(subject, extent)),
        "attention": 4 * short * ATTENTION_CANDIDATES,
        "survivors": 2 * (extent.candidates + 1) * whole,
    }[part]


def row_gate(
    subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """Wall time of a search that keeps all over that of the plain call; latents, no decode."""
    seeds = candidate_seeds(0, 0, extent.candidates)
    runs: dict[str, Callable[[], Any]] = {
        "plain": lambda: _without_result(subject.plain(seeds)),
        "keep_all": lambda: _without_result(subject.keep_all(extent.candidates)),
    }
    subject.plain(seeds, num_inference_steps=SHORT_STEPS)
    timings = interleaved(runs, rounds, subject.device)
    seconds = {name: [timing.seconds for timing in timings[name]] for name in runs}
    return {
        "candidates": extent.candidates,
        **{name: summary(timings[name]) for name in runs},
        "keep_all_over_plain": ratio(seconds["keep_all"], seconds["plain"]),
    }


def _without_result(result: Any) -> None:
    """Drop what a run returned, so that it does not count into the next run's peak of memory."""


def _row_limits(subject: Subject, extent: Extent) -> list[int]:
    """1, 2, 4 ... and the whole batch of denoiser rows."""
    whole = extent.candidates * subject.rows
    return [2**power for power in range(whole.bit_length()) if 2**power < whole] + [whole]


def micro_batches(
    subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """Seconds per denoiser row and peak memory by `max_rows`."""
    limits = _row_limits(subject, extent)
    runs = {str(rows): lambda r=rows: _limited(subject, extent.candidates, r) for rows in limits}
    timings = interleaved(runs, rounds, subject.device, warm_ups=1)
    whole = [t.result for t in timings[str(limits[-1])]]
    rows = []
    for limit in limits:
        results = [timing.result for timing in timings[str(limit)]]
        failed = [result for result in results if isinstance(result, str)]
        if failed:
            rows.append({"max_rows": limit, "out_of_memory": failed[0]})
            continue
        row = {"max_rows": limit, "seconds_per_row": median(results)}
        row["peak_memory_mib"] = summary(timings[str(limit)])["peak_memory_mib"]
        if not any(isinstance(result, str) for result in whole):
            row["seconds_per_row_over_whole_batch"] = ratio(results, whole)
        rows.append(row)
    return {"candidates": extent.candidates, "steps": SHORT_STEPS, "rounds": rounds, "rows": rows}


def _limited(subject: Subject, candidates: int, max_rows: int) -> float | str:
    """Seconds in the denoiser per row, or how memory ran out."""
    clock = DenoiserClock()
    try:
        with clock.around(subject.denoiser), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            output = subject.keep_all(candidates, max_rows, num_inference_steps=SHORT_STEPS)
    except (torch.OutOfMemoryError, DeviceError) as error:
        reason = str(error)
    else:
        # The gate goes on with smaller batches and a warning.
        halved = [str(w.message) for w in caught if str(w.message).startswith("Out of memory")]
        if not halved:
            return clock.seconds / float(output.cost.nfe)
        reason = halved[0]
    torch.cuda.empty_cache()
    return " ".join(reason.split())[:300]


def attention(
    subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """Seconds of the denoiser per candidate step, native against xformers."""
    return compared_backends(subject, rounds, "seconds_per_step", lambda: _step_seconds(subject))


def _step_seconds(subject: Subject) -> float:
    clock = DenoiserClock()
    with clock.around(subject.denoiser):
        seeds = candidate_seeds(0, 0, ATTENTION_CANDIDATES)
        subject.plain(seeds, num_inference_steps=SHORT_STEPS)
    return clock.seconds / (SHORT_STEPS * ATTENTION_CANDIDATES)


def survivors(
    subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """How far the winner of a search is from its seed drawn alone, beside what batching does."""
    search = subject.search("ttsnap, clean schedule", extent.candidates)
    arguments = subject.arguments | {"output_type": "latent"}
    output = search(subject.pipe, PROMPT, **arguments)
    seeds = candidate_seeds(0, 0, extent.candidates)
    seed = output.seeds[0]
    solo, again = subject.plain([seed])[0], subject.plain([seed])[0]
    batched = subject.plain(seeds)[seeds.index(seed)]
    return {
        "candidates": extent.candidates,
        "winner_vs_alone": _difference(subject, output.samples[0], solo),
        "plain_batch_vs_alone": _difference(subject, batched, solo),
        "alone_again_vs_alone": _difference(subject, again, solo),
        "note": "Kernels are chosen by batch size and round differently, so a seed alone and the "
        "same seed in a plain batch differ too; the search should differ no more than that. "
        "Pixels are in [0, 1]: one 8-bit level is 0.0039.",
    }


def _difference(subject: Subject, latents: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    size = subject.arguments["height"], subject.arguments["width"]
    pixels = Previewer(BoundPipeline.of(subject.pipe), *size, max_images=1).decode(
        torch.stack([latents, other])
    )
    distance = (pixels[0] - pixels[1]).abs()
    return {
        "max_pixel": float(distance.max()),
        "mean_pixel": float(distance.mean()),
        "max_latent": float((latents.float() - other.float()).abs().max()),
        "latent_std": float(other.float().std()),
    }
