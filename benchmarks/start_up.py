"""How long commands take that only say what there is: whole processes, from the start to the end.

python -m benchmarks.start_up

Writes `docs/benchmarks/start_up.json`. A test holds that nothing heavy is loaded; this says what is
left to wait for.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.results import publish

RUNS = 9
LISTINGS = {
    "generate --list-samplers": ("generate", "--list-samplers"),
    "generate --help": ("generate", "--help"),
    "gensift list": ("list",),
    "nothing": (),
}
"""Arguments of `python -m gensift` by command; without any it is Python alone that is timed."""


def seconds(arguments: tuple[str, ...]) -> float:
    """Wall time of one process."""
    command = ["-m", "gensift", *arguments] if arguments else ["-c", ""]
    begun = time.perf_counter()
    subprocess.run([sys.executable, *command], capture_output=True, check=True)
    return time.perf_counter() - begun


def main() -> None:
    """Time the commands in turns, after one round that is not counted."""
    rounds = [{name: seconds(given) for name, given in LISTINGS.items()} for _ in range(RUNS + 1)]
    figures = {}
    for name in LISTINGS:
        counted = sorted(one[name] for one in rounds[1:])
        figures[name] = {
            "median_s": round(statistics.median(counted), 3),
            "least_s": round(counted[0], 3),
            "most_s": round(counted[-1], 3),
        }
        print(f"{name}: {figures[name]}")
    publish("start_up", {"runs": RUNS, "seconds": figures})


if __name__ == "__main__":
    main()
