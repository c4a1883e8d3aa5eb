"""What searching adds to the pipeline's own work, in time and in memory.

    python -m benchmarks.overhead [--device cuda]

* keep-all: best-of-N with rewards off against the plain pipeline call on the same rows;
* pruned: denoiser time of a TTSnap run against the plain call's, scaled by the share of rows that
  were still alive;
* tree: the picture of the sifting tree that a run writes for each prompt, drawn and compressed,
  against the search of a prompt with 16 candidates;
* memory: the peak of 64 candidates in micro-batches of 8 against that of 8 candidates.

Time ratios are medians over alternating pairs in one process; each peak is that of a process of
its own.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

import gensift
from benchmarks.peaks import in_fresh_process, peak_of
from benchmarks.results import interval, publish
from caches.evaluation import now
from gensift.randomness import candidate_seeds, make_generators

PROMPT = "a red circle left of a blue square"
CANDIDATES = 64
TREE_CANDIDATES = 16
MICRO_BATCH = 8


class DenoiserClock:
    """Seconds spent inside the denoiser, measured around its own forward passes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def around(self, denoiser: torch.nn.Module) -> Iterator[None]:
        """Count while the block runs; wraps the innermost forward, below any hook."""
        plain = type(denoiser).forward

        @functools.wraps(plain)
        def timed(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            start = now()
            output = plain(module, *args, **kwargs)
            self.seconds += now() - start
            return output

        type(denoiser).forward = timed
        try:
            yield
        finally:
            type(denoiser).forward = plain


def plain_call(pipe: Any, count: int, **overrides: Any) -> None:
    """The pipeline alone, one generator per row."""
    generators = make_generators(candidate_seeds(0, 0, count))
    arguments = gensift.call_defaults(pipe) | overrides
    pipe(PROMPT, num_images_per_prompt=count, generator=generators, **arguments)


def keep_all(pipe: Any, pairs: int) -> list[float]:
    """Wall time of best-of-N without rewards over that of the plain call, pair by pair."""
    sampler = gensift.BestOfN(None, num_candidates=CANDIDATES)
    ratios = []
    for _ in range(pairs):
        plain = _seconds(lambda: plain_call(pipe, CANDIDATES))
        ratios.append(_seconds(lambda: sampler(pipe, PROMPT)) / plain)
    return ratios


def pruned(pipe: Any, reward: Any, pairs: int) -> tuple[list[float], float]:
    """Denoiser time over what the living rows' share of the plain call takes; and that share."""
    sampler = gensift.TTSnap(reward, num_candidates=CANDIDATES)
    whole = gensift.BestOfN(None, num_candidates=CANDIDATES).plan(pipe).cost.nfe
    share = sampler.plan(pipe).cost.nfe / whole
    ratios = []
    for _ in range(pairs):
        plain, sifted = DenoiserClock(), DenoiserClock()
        with plain.around(pipe.transformer):
            plain_call(pipe, CANDIDATES)
        with sifted.around(pipe.transformer):
            sampler(pipe, PROMPT)
        ratios.append(sifted.seconds / (share * plain.seconds))
    return ratios, share


def tree(pipe: Any, reward: Any, pairs: int) -> list[float]:
    """Time of the tree picture over that of the search that it shows, pair by pair."""
    sampler = gensift.TTSnap(reward, num_candidates=TREE_CANDIDATES)
    ratios = []
    for _ in range(pairs):
        start = now()
        output = sampler(pipe, PROMPT)
        searched = now()
        winner = output.trace.prompts[0].winner
        picture = output.trace.picture([{winner: output.images[0]}])
        picture.save(io.BytesIO(), format="PNG", compress_level=1)
        ratios.append((now() - searched) / (searched - start))
    return ratios


def peak(candidates: int, max_rows: int | None, device: str) -> dict[str, float]:
    """Peak memory of a TTSnap run in a fresh process, MiB: in all, and above the loaded models."""
    options = json.dumps({"num_candidates": candidates, "max_rows": max_rows})
    found: dict[str, float] = in_fresh_process(
        "benchmarks.overhead", ["--device", device, "--peak", options]
    )
    return found


def measure_peak(options: dict[str, Any], device: str) -> dict[str, float]:
    """Run in the fresh process: one small search to warm up, then the one that is measured."""
    pipe, reward = _load(device)
    gensift.TTSnap(reward, num_candidates=1)(pipe, PROMPT)
    return peak_of(lambda: gensift.TTSnap(reward, **options)(pipe, PROMPT), device)


def _load(device: str) -> tuple[Any, Any]:
    pipe = gensift.load_pipeline("shapes-flux", device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe, gensift.load_reward("shapes-clip", device=device)


def _seconds(run: Any) -> float:
    start = now()
    run()
    return now() - start


def _summary(ratios: list[float]) -> dict[str, Any]:
    values = np.array(ratios)
    return {
        "ratio": float(np.median(values)),
        "mean_interval_95": interval(values),
        "pairs": len(values),
    }


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.peak:
        print(json.dumps(measure_peak(json.loads(arguments.peak), device)))
        return
    pipe, reward = _load(device)
    keep_all(pipe, 2)  # warm-up: first calls allocate and choose kernels
    together = keep_all(pipe, arguments.pairs)
    alive, share = pruned(pipe, reward, arguments.pairs)
    drawn = tree(pipe, reward, arguments.pairs)
    few = peak(MICRO_BATCH, None, device)
    many = peak(CANDIDATES, MICRO_BATCH, device)
    publish(
        "overhead" if device == "cpu" else f"overhead-{device}",
        {
            "candidates": CANDIDATES,
            "keep_all_wall_time": _summary(together),
            "pruned_denoiser_time": _summary(alive) | {"live_row_share": share},
            "tree_time": _summary(drawn) | {"candidates": TREE_CANDIDATES},
            "peak_memory": {
                f"{MICRO_BATCH} candidates": few,
                f"{CANDIDATES} candidates, max_rows={MICRO_BATCH}": many,
                "ratio_total": many["total_mib"] / few["total_mib"],
                "ratio_search": many["search_mib"] / few["search_mib"],
            },
        },
    )


if __name__ == "__main__":
    main()
