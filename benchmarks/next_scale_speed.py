"""What searching adds to the work of a next-scale pipeline, in time and in memory.

    python -m benchmarks.next_scale_speed [--model shapes-infinity|FOLDER] [--device cuda]

* engine: best-of-N without a reward, which chooses nothing, against the plain pipeline call with
  the same seeds;
* gather: the share of a TTS-VAR run's time that goes into keeping and copying candidates;
* memory: the peak of TTS-VAR, also with as few rows at a time as are finished, and of best-of-N.

Alternatives are interleaved in one process, and figures are medians; each peak is that of a process
of its own. `FOLDER` is any `InfinityPipeline` of the zoo's 64 x 64 pictures; the call arguments
come from its `gensift.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gensift
from benchmarks.next_scale_runs import engine_over_plain, search_row, searched
from benchmarks.peaks import in_fresh_process, peak_of
from benchmarks.results import FOLDER, publish
from samplers.autoregressive.embeddings import SHAPES_CLIP
from samplers.autoregressive.search import NextScaleSearch
from samplers.autoregressive.tts_var import TTSVAR
from samplers.autoregressive.var_best_of_n import VARBestOfN

COUNTS = (1, 2, 4, 8)
"""Finished candidates, the N of best-of-N."""
MOST_OVERHEAD, MOST_GATHERING = 1.05, 0.03
"""What is accepted, of the plain call's time and of a search's."""
LIMITED = f"tts-var, max_rows={max(COUNTS)}"
SEARCHES = {
    "best-of-n": VARBestOfN,
    "tts-var": partial(TTSVAR, embedding=SHAPES_CLIP),
    LIMITED: partial(TTSVAR, embedding=SHAPES_CLIP, max_rows=max(COUNTS)),
}


def engine(pipe: Any, pairs: int, device: str) -> list[dict[str, Any]]:
    """Time of the engine over that of the plain call, per number of pictures."""
    rows = [engine_over_plain(pipe, count, pairs, device, {}) for count in COUNTS]
    return [
        row | {"is_accepted": row["engine_over_plain"]["ratio"] <= MOST_OVERHEAD} for row in rows
    ]


def gather(pipe: Any, reward: Any, rounds: int, device: str) -> list[dict[str, Any]]:
    """Where the time of TTS-VAR goes, per number of finished candidates."""
    samplers = [_search("tts-var", reward, count) for count in COUNTS]
    rows = [search_row(pipe, sampler, rounds, device, {}) for sampler in samplers]
    return [
        row | {"is_accepted": row["gather_over_all"]["ratio"] <= MOST_GATHERING} for row in rows
    ]


def peaks(model: str, device: str) -> list[dict[str, Any]]:
    """Peaks of all searches with the most candidates, and over that of best-of-N."""
    options = ["--model", model, "--device", device, "--peak"]
    found = {
        name: in_fresh_process("benchmarks.next_scale_speed", [*options, name]) for name in SEARCHES
    }
    base = found["best-of-n"]["total_mib"]
    return [
        {
            "name": name,
            "num_candidates": max(COUNTS),
            **peak,
            "total_over_best_of_n": peak["total_mib"] / base,
        }
        for name, peak in found.items()
    ]


def measure_peak(name: str, model: str, device: str) -> dict[str, float]:
    """Run in the fresh process: one small search to warm up, then the one that is measured."""
    pipe, reward = _load(model, device)
    searched(pipe, _search(name, reward, 1), {})
    sampler = _search(name, reward, max(COUNTS))
    return peak_of(lambda: searched(pipe, sampler, {}), device)


def _search(name: str, reward: Any, count: int) -> NextScaleSearch:
    return SEARCHES[name](reward, num_candidates=count)


def _load(model: str, device: str) -> tuple[Any, Any]:
    pipe = gensift.load_pipeline(model, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe, gensift.load_reward("shapes-clip", device=device)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="shapes-infinity", help="zoo name or folder")
    parser.add_argument("--pairs", type=int, default=9, help="repetitions of each alternative")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=FOLDER, help="default docs/benchmarks")
    parser.add_argument("--peak", choices=tuple(SEARCHES), help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    model, device = arguments.model, arguments.device
    if arguments.peak:
        print(json.dumps(measure_peak(arguments.peak, model, device)))
        return
    pipe, reward = _load(model, device)
    figures = {
        "model": model,
        "arguments": gensift.call_defaults(pipe),
        "most_overhead": MOST_OVERHEAD,
        "most_gathering": MOST_GATHERING,
        "engine": engine(pipe, arguments.pairs, device),
        "tts_var": gather(pipe, reward, arguments.pairs, device),
        "peak_memory": peaks(model, device),
    }
    name = "next_scale_speed" if device == "cpu" else f"next_scale_speed-{device}"
    publish(name, figures, arguments.output)


if __name__ == "__main__":
    main()
