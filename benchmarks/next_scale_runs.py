"""Runs of next-scale pipelines that benchmarks on a CPU and on a GPU have in common."""

from __future__ import annotations

from typing import Any

from benchmarks.overhead import PROMPT, plain_call
from benchmarks.timing import Timing, interleaved, ratio, seconds_by_part, summary
from gensift.cost import Cost
from samplers.autoregressive.search import NextScaleSearch
from samplers.autoregressive.var_best_of_n import VARBestOfN


def searched(pipe: Any, sampler: NextScaleSearch, arguments: dict[str, Any]) -> Cost:
    """What a search spent; its pictures are dropped, so that they count into no peak of memory."""
    return sampler(pipe, PROMPT, **arguments).cost


def engine_over_plain(
    pipe: Any, count: int, rounds: int, device: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    """`count` pictures by the search engine that chooses nothing, and by the pipeline alone."""
    engine = VARBestOfN(None, num_candidates=count)
    runs = {
        "plain": lambda: plain_call(pipe, count, **arguments),
        "engine": lambda: searched(pipe, engine, arguments),
    }
    timings = interleaved(runs, rounds, device, warm_ups=1)
    seconds = {name: [timing.seconds for timing in timings[name]] for name in runs}
    tokens = timings["engine"][0].result.tokens
    plain = summary(timings["plain"])
    return {
        "num_candidates": count,
        "rounds": rounds,
        "plain": plain
        | {
            "seconds_per_picture": plain["seconds"] / count,
            "tokens_per_second": tokens / plain["seconds"],
        },
        "engine": _cost_row(timings["engine"]),
        "engine_over_plain": ratio(seconds["engine"], seconds["plain"]),
    }


def search_row(
    pipe: Any, sampler: NextScaleSearch, rounds: int, device: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Time, memory and work of a search, and the share of its time that `gather` takes."""
    runs = {"search": lambda: searched(pipe, sampler, arguments)}
    timings = interleaved(runs, rounds, device, warm_ups=1)["search"]
    gathering = [timing.result.seconds["gather"] for timing in timings]
    return {
        "num_candidates": sampler.num_candidates,
        "rounds": rounds,
        **_cost_row(timings),
        "gather_over_all": ratio(gathering, [timing.seconds for timing in timings]),
    }


def _cost_row(timings: list[Timing]) -> dict[str, Any]:
    """Figures of runs that returned a `Cost`; tokens are those of both branches of guidance."""
    found, cost = summary(timings), timings[0].result
    return {
        **found,
        "tokens": cost.tokens,
        "tokens_per_second": cost.tokens / found["seconds"],
        "decodes": cost.decodes,
        "reward_calls": cost.reward_calls,
        "seconds_by_part": seconds_by_part(timings),
    }
