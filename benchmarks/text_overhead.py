"""What diversity adds to the time of decoding."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.text_arms import PROBLEMS_PER_CALL, Arm
from gensift.zoo.countdown.split import test_problems

MOST = 0.06
"""Share of the plain time that is accepted."""


def overhead(pipe: Any, pairs: int = 15) -> dict[str, Any]:
    """Time of ODD over that of plain decoding, interleaved pairs of calls in one process."""
    prompts = [problem.text for problem in test_problems()[:PROBLEMS_PER_CALL]]
    samplers = [Arm("grid", 1.0, alpha).sampler() for alpha in (0.0, 16.0)]
    ratios, plain = [], []
    for sampler in samplers:
        sampler(pipe, prompts)
    for _ in range(pairs):
        times = []
        for sampler in samplers:
            start = time.perf_counter()
            sampler(pipe, prompts)
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
        plain.append(times[0])
    added = statistics.median(ratios) - 1
    return {
        "prompts_per_call": len(prompts),
        "plain_seconds": statistics.median(plain),
        "added_share": added,
        "is_accepted": added <= MOST,
    }
